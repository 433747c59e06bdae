/* Forks in every state that a server forks in. Argument: the library. Needs a running HSM. */
#include "cryptoki.h"

#include <pthread.h>
#include <sys/wait.h>

static ulong_t session, key;
static volatile int stop;

static void *sign_on(void *unused) {
    (void)unused;
    ulong_t mine = open_session();
    while (!stop) expect(OK, try_sign(mine, key), "C_Sign", __FILE__, __LINE__);
    return 0;
}

static void a_child(int generations) {
    alarm(60);
    /* Everything inherited is as if it were not there. */
    expect(NOT_INITIALIZED, CALL(C_SignInit, session, (void *)0, key), "C_SignInit", __FILE__, __LINE__);
    EXPECT(NOT_INITIALIZED, C_Finalize, (void *)0);
    EXPECT(NOT_INITIALIZED, C_CloseSession, session);
    initialize();
    /* The parent's handles mean nothing here. */
    EXPECT(SESSION_HANDLE_INVALID, C_CloseSession, session);
    ulong_t mine = log_in();
    expect(OK, try_sign(mine, make_pair(mine)), "C_Sign", __FILE__, __LINE__);
    if (generations > 0) {
        pid_t grandchild = fork();
        if (grandchild == 0) a_child(generations - 1);
        int status = 0;
        waitpid(grandchild, &status, 0);
        REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a grandchild failed");
        expect(OK, try_sign(mine, make_pair(mine)), "C_Sign", __FILE__, __LINE__);
    }
    EXPECT(OK, C_Finalize, (void *)0);
    exit(0);
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    variable("KAGIMORI_CONFIG");
    load(arguments[1]);
    initialize();
    /* A server that forks before it has used anything. */
    pid_t early = fork();
    if (early == 0) a_child(0);
    session = log_in();
    key = make_pair(session);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, sign_on, 0);
    pid_t children[12];
    for (int i = 0; i < 12; i++) {
        children[i] = fork();
        if (children[i] == 0) a_child(i % 2);
        /* And one that leaves without a word, as a worker that execs or crashes. */
        if (fork() == 0) _exit(0);
        usleep(20000);
    }
    int status = 0, failed = 0;
    waitpid(early, &status, 0);
    failed |= status;
    for (int i = 0; i < 12; i++) { waitpid(children[i], &status, 0); failed |= status; }
    stop = 1;
    for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
    REQUIRE(!failed, "a child failed");
    /* What the children did has not touched the parent's login, session or key. */
    expect(OK, try_sign(session, key), "C_Sign", __FILE__, __LINE__);
    EXPECT(OK, C_Finalize, (void *)0);
    puts("fork: passed");
    return 0;
}
