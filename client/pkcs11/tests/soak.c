/* Everything that a long-lived server does, again and again: memory and descriptors stay where they were.
   Argument: the library. Needs a running HSM. */
#include "cryptoki.h"

enum { WARM_UP = 300, ROUNDS = 3000, GROWTH_KIB = 2048 };

static long resident_kib(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%*s %ld", &pages) != 1) exit(2);
    fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void round_trip(ulong_t main_session, ulong_t key) {
    ulong_t session = open_session(), class = 0, object, found[4], count, length;
    byte no = 0, data[3000] = {1}, digest[32], label[6] = "soak-1", read[6];
    attribute template[] = {{CKA_CLASS, &class, sizeof class}, {CKA_TOKEN, &no, 1}, {CKA_LABEL, label, 6}};
    attribute wanted[] = {{CKA_LABEL, label, 6}}, asked[] = {{CKA_LABEL, read, 6}};
    mechanism sha = {CKM_SHA256, 0, 0};
    expect(OK, try_sign(main_session, key), "C_Sign", __FILE__, __LINE__);
    EXPECT(OK, C_CreateObject, session, template, 3UL, &object);
    EXPECT(OK, C_FindObjectsInit, session, wanted, 1UL);
    EXPECT(OK, C_FindObjects, session, found, 4UL, &count);
    EXPECT(OK, C_FindObjectsFinal, session);
    REQUIRE(count == 1 && found[0] == object, "a session object was not found");
    EXPECT(OK, C_GetAttributeValue, session, object, asked, 1UL);
    EXPECT(OK, C_DigestInit, session, &sha);
    EXPECT(OK, C_DigestUpdate, session, data, (ulong_t)sizeof data);
    length = sizeof digest;
    EXPECT(OK, C_DigestFinal, session, digest, &length);
    /* An operation and a search that are never ended go with their session. */
    EXPECT(OK, C_DigestInit, session, &sha);
    EXPECT(OK, C_DigestUpdate, session, data, (ulong_t)sizeof data);
    EXPECT(OK, C_FindObjectsInit, session, wanted, 1UL);
    EXPECT(OK, C_CloseSession, session);
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    variable("KAGIMORI_CONFIG");
    load(arguments[1]);
    initialize();
    ulong_t session = log_in(), key = make_pair(session);
    long before = 0;
    int descriptors = 0;
    for (int round = 0; round < WARM_UP + ROUNDS; round++) {
        if (round == WARM_UP) { before = resident_kib(); descriptors = entries("fd"); }
        round_trip(session, key);
    }
    long grown = resident_kib() - before;
    printf("soak: %d rounds, %ld KiB more\n", ROUNDS, grown);
    REQUIRE(grown < GROWTH_KIB, "memory grows");
    REQUIRE(entries("fd") == descriptors, "descriptors grow");
    EXPECT(OK, C_Finalize, (void *)0);
    return 0;
}
