/* As much of PKCS#11 as the test programs in this folder need: types, numbers, and the library behind dlopen. */
#ifndef CRYPTOKI_H
#define CRYPTOKI_H

#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned char byte;
typedef unsigned long ulong_t;
typedef struct { ulong_t type; void *value; ulong_t length; } attribute;
typedef struct { ulong_t mechanism; void *parameter; ulong_t parameter_length; } mechanism;

enum {
    OK = 0, GENERAL_ERROR = 5, ARGUMENTS_BAD = 7, ATTRIBUTE_VALUE_INVALID = 0x13, TEMPLATE_INCONSISTENT = 0xD1,
    OPERATION_NOT_INITIALIZED = 0x91, SESSION_HANDLE_INVALID = 0xB3, NOT_INITIALIZED = 0x190, BUFFER_TOO_SMALL = 0x150,
    KEY_HANDLE_INVALID = 0x60, OBJECT_HANDLE_INVALID = 0x82, FUNCTION_NOT_SUPPORTED = 0x54,
    MECHANISM_INVALID = 0x70
};
enum { CKU_USER = 1, SERIAL = 4, READ_WRITE = 2 };
enum { CKM_EC_KEY_PAIR_GEN = 0x1040, CKM_ECDSA = 0x1041, CKM_SHA256 = 0x250, CKM_AES_CBC = 0x1082,
       CKM_DSA_PARAMETER_GEN = 0x2000, CKM_GOSTR3410_KEY_PAIR_GEN = 0x1200 };
enum { CKA_CLASS = 0, CKA_TOKEN = 1, CKA_LABEL = 3, CKA_VALUE = 0x11, CKA_KEY_TYPE = 0x100, CKA_ID = 0x102, CKA_SIGN = 0x108,
       CKA_VERIFY = 0x10A, CKA_EC_PARAMS = 0x180, CKA_PRIME_BITS = 0x133, CKA_GOSTR3410_PARAMS = 0x250 };

/* Every function is called through one of these: arguments are words or pointers, the result is a word. */
typedef ulong_t (*function)();

static void *library;

static void load(const char *path) {
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) { fprintf(stderr, "%s\n", dlerror()); exit(1); }
}

static function named(const char *name) {
    function found = (function)dlsym(library, name);
    if (!found) { fprintf(stderr, "no %s\n", name); exit(1); }
    return found;
}

#define CALL(name, ...) (named(#name)(__VA_ARGS__))
#define EXPECT(wanted, name, ...) expect((wanted), named(#name)(__VA_ARGS__), #name, __FILE__, __LINE__)

static void expect(ulong_t wanted, ulong_t got, const char *name, const char *file, int line) {
    if (wanted == got) return;
    fprintf(stderr, "%s:%d: process %d: %s answered %#lx and not %#lx\n", file, line, (int)getpid(), name, got, wanted);
    exit(1);
}

#define REQUIRE(condition, words) do { if (!(condition)) { \
    fprintf(stderr, "%s:%d: process %d: %s\n", __FILE__, __LINE__, (int)getpid(), words); exit(1); } } while (0)

static const char *variable(const char *name) {
    const char *value = getenv(name);
    if (!value) { printf("SKIP: %s is not set\n", name); exit(0); }
    return value;
}

/* Entries of a folder under /proc/self: "task" = threads, "fd" = open descriptors (one more while we look). */
static int entries(const char *folder) {
    char path[64];
    int count = 0;
    snprintf(path, sizeof path, "/proc/self/%s", folder);
    DIR *open = opendir(path);
    while (readdir(open)) count++;
    closedir(open);
    return count;
}

static void initialize(void) {
    /* CK_C_INITIALIZE_ARGS: no mutexes, CKF_OS_LOCKING_OK. */
    ulong_t arguments[6] = {0, 0, 0, 0, 2, 0};
    EXPECT(OK, C_Initialize, arguments);
}

static ulong_t open_session(void) {
    ulong_t session = 0;
    EXPECT(OK, C_OpenSession, 0UL, (ulong_t)(SERIAL | READ_WRITE), (void *)0, (void *)0, &session);
    return session;
}

static ulong_t log_in(void) {
    const char *pin = variable("P11_PIN");
    ulong_t session = open_session();
    EXPECT(OK, C_Login, session, (ulong_t)CKU_USER, pin, (ulong_t)strlen(pin));
    return session;
}

/* A P-256 pair that dies with its session; answers the private key. */
static ulong_t make_pair(ulong_t session) {
    byte yes = 1, no = 0;
    byte p256[] = {6, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7};
    attribute public_key[] = {{CKA_TOKEN, &no, 1}, {CKA_VERIFY, &yes, 1}, {CKA_EC_PARAMS, p256, sizeof p256}};
    attribute private_key[] = {{CKA_TOKEN, &no, 1}, {CKA_SIGN, &yes, 1}};
    mechanism how = {CKM_EC_KEY_PAIR_GEN, 0, 0};
    ulong_t public_handle = 0, private_handle = 0;
    EXPECT(OK, C_GenerateKeyPair, session, &how, public_key, 3UL, private_key, 2UL, &public_handle, &private_handle);
    return private_handle;
}

static ulong_t try_sign(ulong_t session, ulong_t key) {
    mechanism how = {CKM_ECDSA, 0, 0};
    byte hash[32] = {7}, signature[64];
    ulong_t length = sizeof signature;
    ulong_t begun = CALL(C_SignInit, session, &how, key);
    return begun ? begun : CALL(C_Sign, session, hash, 32UL, signature, &length);
}

#endif
