/* Loads, uses and unloads the library again and again, and leaves in every way that applications leave.
   Argument: the library. With "online" as a second one, it also logs in and signs. */
#include "cryptoki.h"

#include <pthread.h>
#include <sys/wait.h>

static int online;

static void use(void) {
    ulong_t slots[16], count = 16;
    EXPECT(OK, C_GetSlotList, (byte)1, slots, &count);
    if (!online) { open_session(); return; }
    ulong_t session = log_in();
    ulong_t key = make_pair(session);
    expect(OK, try_sign(session, key), "C_Sign", __FILE__, __LINE__);
}

/* A thread that uses the library and ends after it was unloaded: its clean-up must still find its code. */
static pthread_barrier_t used, unloaded;

static void *outlive(void *unused) {
    (void)unused;
    use();
    pthread_barrier_wait(&used);
    pthread_barrier_wait(&unloaded);
    return 0;
}

static void in_rounds(const char *path, int rounds) {
    int threads = 0, descriptors = 0;
    for (int round = 0; round < rounds; round++) {
        load(path);
        initialize();
        use();
        EXPECT(OK, C_Finalize, (void *)0);
        REQUIRE(dlclose(library) == 0, "dlclose failed");
        if (round == 1) { threads = entries("task"); descriptors = entries("fd"); }
    }
    REQUIRE(entries("task") == threads, "a thread outlived C_Finalize");
    REQUIRE(entries("fd") == descriptors, "a descriptor outlived C_Finalize");
}

static void with_a_thread_that_ends_later(const char *path) {
    pthread_t thread;
    pthread_barrier_init(&used, 0, 2);
    pthread_barrier_init(&unloaded, 0, 2);
    load(path);
    initialize();
    pthread_create(&thread, 0, outlive, 0);
    pthread_barrier_wait(&used);
    EXPECT(OK, C_Finalize, (void *)0);
    dlclose(library);
    pthread_barrier_wait(&unloaded);
    pthread_join(thread, 0);
}

static void finalize_at_exit(void) {
    CALL(C_Finalize, (void *)0);
}

/* An application that finalizes in a handler of its own exit, registered before the library was loaded. */
static void finalizing_at_exit(const char *path) {
    atexit(finalize_at_exit);
    load(path);
    initialize();
    use();
    exit(0);
}

static void *sign_for_ever(void *unused) {
    (void)unused;
    for (;;) {
        ulong_t session = 0;
        if (CALL(C_OpenSession, 0UL, (ulong_t)SERIAL, (void *)0, (void *)0, &session) != OK) return 0;
        byte random[32];
        if (online) CALL(C_GenerateRandom, session, random, 32UL);
        CALL(C_CloseSession, session);
    }
}

/* An application that returns from main while its threads are in the middle of calls, and never finalizes. */
static void leaving_threads_behind(const char *path) {
    pthread_t thread;
    load(path);
    initialize();
    use();
    for (int i = 0; i < 4; i++) pthread_create(&thread, 0, sign_for_ever, 0);
    usleep(100000);
    exit(0);
}

static void in_a_process(const char *name, void (*run)(const char *), const char *path) {
    pid_t child = fork();
    if (child == 0) { alarm(60); run(path); exit(0); }
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "%s: ended with status %#x (a hang is signal 14)\n", name, status);
        exit(1);
    }
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    online = count > 2 && strcmp(arguments[2], "online") == 0;
    in_a_process("exit handler", finalizing_at_exit, arguments[1]);
    in_a_process("threads left behind", leaving_threads_behind, arguments[1]);
    in_a_process("thread ends later", with_a_thread_that_ends_later, arguments[1]);
    in_rounds(arguments[1], online ? 20 : 200);
    puts("load: passed");
    return 0;
}
