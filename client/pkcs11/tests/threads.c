/* Threads that use, share and close each other's sessions, objects and login. Argument: the library. Needs a running HSM.
   A crash or a hang is the failure; so are a wrong signature length and a key that answers after its session was closed. */
#include "cryptoki.h"

#include <pthread.h>

enum { THREADS = 8, ROUNDS = 300, SHARED = 4 };

static ulong_t shared_session[SHARED], shared_key;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

/* An operation in a session that others use at the same time: it may be refused, but never answers nonsense. */
static void in_a_shared_session(unsigned *seed) {
    mechanism how = {CKM_ECDSA, 0, 0}, sha = {CKM_SHA256, 0, 0};
    byte hash[32] = {7}, out[64];
    ulong_t length = sizeof out, session = shared_session[rand_r(seed) % SHARED];
    if (rand_r(seed) % 2) {
        CALL(C_SignInit, session, &how, shared_key);
        if (CALL(C_Sign, session, hash, 32UL, out, &length) == OK) REQUIRE(length == 64, "a signature of a wrong length");
    } else {
        CALL(C_DigestInit, session, &sha);
        CALL(C_DigestUpdate, session, hash, 32UL);
        if (CALL(C_DigestFinal, session, out, &length) == OK) REQUIRE(length == 32, "a digest of a wrong length");
    }
}

static void search(ulong_t session) {
    ulong_t found[16], count;
    byte no = 0;
    attribute wanted[] = {{CKA_TOKEN, &no, 1}};
    EXPECT(OK, C_FindObjectsInit, session, wanted, 1UL);
    do EXPECT(OK, C_FindObjects, session, found, 16UL, &count); while (count > 0);
    EXPECT(OK, C_FindObjectsFinal, session);
}

static void *work(void *number) {
    unsigned seed = 1 + (unsigned)(size_t)number;
    for (int round = 0; round < ROUNDS; round++) {
        ulong_t session = open_session();
        if (round % 8 == 0) {
            ulong_t key = make_pair(session);
            expect(OK, try_sign(session, key), "C_Sign", __FILE__, __LINE__);
            search(session);
            EXPECT(OK, C_CloseSession, session);
            ulong_t other = open_session();
            REQUIRE(try_sign(other, key) != OK, "a key outlived its session");
            session = other;
        }
        expect(OK, try_sign(session, shared_key), "C_Sign", __FILE__, __LINE__);
        for (int i = 0; i < 4; i++) in_a_shared_session(&seed);
        if (round % 50 == 49) {
            /* One of the sessions that others are using right now is closed and replaced. */
            int place = rand_r(&seed) % SHARED;
            pthread_mutex_lock(&turn);
            ulong_t old = shared_session[place];
            shared_session[place] = open_session();
            EXPECT(OK, C_CloseSession, old);
            pthread_mutex_unlock(&turn);
        }
        EXPECT(OK, C_CloseSession, session);
    }
    return 0;
}

static void *come_and_go(void *unused) {
    const char *pin = variable("P11_PIN");
    (void)unused;
    for (int round = 0; round < 20; round++) {
        ulong_t session = open_session();
        CALL(C_Logout, session);
        CALL(C_Login, session, (ulong_t)CKU_USER, pin, (ulong_t)strlen(pin));
        try_sign(session, shared_key);
        EXPECT(OK, C_CloseSession, session);
    }
    return 0;
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    variable("KAGIMORI_CONFIG");
    alarm(120);
    load(arguments[1]);
    initialize();
    ulong_t session = log_in();
    shared_key = make_pair(session);
    for (int i = 0; i < SHARED; i++) shared_session[i] = open_session();
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++) pthread_create(&threads[i], 0, work, (void *)i);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], 0);
    /* Logins and logouts that cross each other: whatever they answer, the last one works. */
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, come_and_go, 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
    CALL(C_Logout, session);
    const char *pin = variable("P11_PIN");
    EXPECT(OK, C_Login, session, (ulong_t)CKU_USER, pin, (ulong_t)strlen(pin));
    expect(OK, try_sign(session, make_pair(session)), "C_Sign", __FILE__, __LINE__);
    EXPECT(OK, C_Finalize, (void *)0);
    puts("threads: passed");
    return 0;
}
