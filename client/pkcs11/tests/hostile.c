/* Pointers, lengths and handles as no honest caller gives them. Argument: the library. Needs a running HSM.
   A crash is the failure; wrong numbers are another. */
#include "cryptoki.h"

static ulong_t session;

static ulong_t create(attribute *template, ulong_t count) {
    ulong_t object = 0;
    return CALL(C_CreateObject, session, template, count, &object);
}

static void templates(void) {
    byte yes = 1, no = 0, text[4] = "abc";
    ulong_t class = 0, object = 0;
    attribute null_with_length[] = {{CKA_CLASS, &class, sizeof class}, {CKA_LABEL, 0, 7}};
    expect(ATTRIBUTE_VALUE_INVALID, create(null_with_length, 2), "NULL with a length", __FILE__, __LINE__);
    attribute absurd[] = {{CKA_CLASS, &class, sizeof class}, {CKA_LABEL, text, ~0UL}};
    expect(ATTRIBUTE_VALUE_INVALID, create(absurd, 2), "absurd length", __FILE__, __LINE__);
    attribute huge[] = {{CKA_CLASS, &class, sizeof class}, {CKA_LABEL, text, 1UL << 40}};
    expect(ATTRIBUTE_VALUE_INVALID, create(huge, 2), "length over the limit", __FILE__, __LINE__);
    attribute wrong_size[] = {{CKA_CLASS, &class, 4}};
    expect(ATTRIBUTE_VALUE_INVALID, create(wrong_size, 1), "CK_ULONG of 4 bytes", __FILE__, __LINE__);
    attribute contradiction[] = {{CKA_CLASS, &class, sizeof class}, {CKA_TOKEN, &yes, 1}, {CKA_TOKEN, &no, 1}};
    expect(TEMPLATE_INCONSISTENT, create(contradiction, 3), "contradiction", __FILE__, __LINE__);
    expect(ARGUMENTS_BAD, create(0, 3), "NULL template", __FILE__, __LINE__);
    expect(ARGUMENTS_BAD, create(contradiction, ~0UL), "absurd count", __FILE__, __LINE__);
    EXPECT(ARGUMENTS_BAD, C_CreateObject, session, wrong_size, 1UL, (void *)0);

    /* Misaligned values, in and out. */
    byte room[sizeof(ulong_t) + 1];
    memcpy(room + 1, &class, sizeof class);
    attribute misaligned[] = {{CKA_CLASS, room + 1, sizeof class}, {CKA_LABEL, text, 3}, {CKA_TOKEN, &no, 1}};
    EXPECT(OK, C_CreateObject, session, misaligned, 3UL, &object);
    memset(room, 0xFF, sizeof room);
    EXPECT(OK, C_GetAttributeValue, session, object, misaligned, 1UL);
    REQUIRE(memcmp(room + 1, &class, sizeof class) == 0, "a misaligned value was not written");
    /* A template that itself lies misaligned. */
    byte odd[sizeof(attribute) + 1];
    memcpy(odd + 1, misaligned, sizeof(attribute));
    EXPECT(OK, C_GetAttributeValue, session, object, odd + 1, 1UL);
    EXPECT(ARGUMENTS_BAD, C_GetAttributeValue, session, object, (void *)0, 2UL);

    /* A freed handle, and one of nothing. */
    EXPECT(OK, C_DestroyObject, session, object);
    EXPECT(OBJECT_HANDLE_INVALID, C_DestroyObject, session, object);
    EXPECT(OBJECT_HANDLE_INVALID, C_GetAttributeValue, session, object, misaligned, 1UL);
    EXPECT(OBJECT_HANDLE_INVALID, C_GetAttributeValue, session, 0UL, misaligned, 1UL);
    EXPECT(OBJECT_HANDLE_INVALID, C_GetAttributeValue, session, ~0UL, misaligned, 1UL);
}

/* A mechanism that no HSM has is named, whatever its attributes are. */
static void strange_mechanisms(void) {
    mechanism domain = {CKM_DSA_PARAMETER_GEN, 0, 0}, pair = {CKM_GOSTR3410_KEY_PAIR_GEN, 0, 0};
    ulong_t bits = 1024, first = 0, second = 0;
    attribute strange[] = {{CKA_PRIME_BITS, &bits, sizeof bits}, {CKA_GOSTR3410_PARAMS, &bits, 3}};
    EXPECT(MECHANISM_INVALID, C_GenerateKey, session, &domain, strange, 2UL, &first);
    EXPECT(MECHANISM_INVALID, C_GenerateKeyPair, session, &pair, strange, 2UL, strange, 2UL, &first, &second);
    EXPECT(SESSION_HANDLE_INVALID, C_GenerateKeyPair, ~0UL, &pair, strange, 2UL, strange, 2UL, &first, (void *)0);
    EXPECT(ARGUMENTS_BAD, C_GenerateKey, session, &domain, strange, 2UL, (void *)0);
}

static void operations(void) {
    mechanism sha = {CKM_SHA256, 0, 0}, cbc = {CKM_AES_CBC, 0, 16}, sign = {CKM_ECDSA, 0, 0};
    byte data[4] = "abc", digest[32];
    ulong_t length = 31;
    EXPECT(ARGUMENTS_BAD, C_DigestInit, session, (void *)0);
    EXPECT(OK, C_DigestInit, session, &sha);
    EXPECT(BUFFER_TOO_SMALL, C_Digest, session, data, 3UL, digest, &length);
    REQUIRE(length == 32, "the length needed was not told");
    EXPECT(OK, C_Digest, session, data, 3UL, digest, &length);
    EXPECT(OPERATION_NOT_INITIALIZED, C_Digest, session, data, 3UL, digest, &length);
    EXPECT(OK, C_DigestInit, session, &sha);
    EXPECT(ARGUMENTS_BAD, C_Digest, session, (void *)0, 3UL, digest, &length);
    EXPECT(OPERATION_NOT_INITIALIZED, C_DigestUpdate, session, data, 3UL);
    EXPECT(OK, C_DigestInit, session, &sha);
    EXPECT(ARGUMENTS_BAD, C_Digest, session, data, 3UL, digest, (void *)0);
    /* Empty input may come as NULL. */
    EXPECT(OK, C_DigestInit, session, &sha);
    EXPECT(OK, C_DigestUpdate, session, (void *)0, 0UL);
    EXPECT(OK, C_DigestFinal, session, digest, &length);
    REQUIRE(digest[0] == 0xE3 && digest[1] == 0xB0, "SHA-256 of nothing is wrong");
    REQUIRE(CALL(C_EncryptInit, session, &cbc, 1UL) != OK, "a NULL IV with a length was taken");
    EXPECT(KEY_HANDLE_INVALID, C_SignInit, session, &sign, 0UL);
    EXPECT(OPERATION_NOT_INITIALIZED, C_Sign, session, data, 3UL, digest, &length);
    EXPECT(OPERATION_NOT_INITIALIZED, C_FindObjects, session, (void *)0, 0UL, &length);
    EXPECT(ARGUMENTS_BAD, C_GenerateRandom, session, (void *)0, 5UL);
    EXPECT(OK, C_GenerateRandom, session, (void *)0, 0UL);
}

/* Every function with every pointer NULL and every number 0, then with an unknown session: an error, never a crash. */
static void every_function(void) {
    static const char *names[] = {
        "C_GetInfo", "C_GetFunctionList", "C_GetSlotList", "C_GetSlotInfo", "C_GetTokenInfo", "C_GetMechanismList",
        "C_GetMechanismInfo", "C_InitToken", "C_InitPIN", "C_SetPIN", "C_OpenSession",
        "C_GetSessionInfo", "C_GetOperationState", "C_SetOperationState", "C_Login", "C_CreateObject", "C_CopyObject",
        "C_DestroyObject", "C_GetObjectSize", "C_GetAttributeValue", "C_SetAttributeValue", "C_FindObjectsInit",
        "C_FindObjects", "C_FindObjectsFinal", "C_EncryptInit", "C_Encrypt", "C_EncryptUpdate", "C_EncryptFinal",
        "C_DecryptInit", "C_Decrypt", "C_DecryptUpdate", "C_DecryptFinal", "C_DigestInit", "C_Digest", "C_DigestUpdate",
        "C_DigestKey", "C_DigestFinal", "C_SignInit", "C_Sign", "C_SignUpdate", "C_SignFinal", "C_SignRecoverInit",
        "C_SignRecover", "C_VerifyInit", "C_Verify", "C_VerifyUpdate", "C_VerifyFinal", "C_VerifyRecoverInit",
        "C_VerifyRecover", "C_DigestEncryptUpdate", "C_DecryptDigestUpdate", "C_SignEncryptUpdate",
        "C_DecryptVerifyUpdate", "C_GenerateKey", "C_GenerateKeyPair", "C_WrapKey", "C_UnwrapKey", "C_DeriveKey",
        "C_SeedRandom", "C_GenerateRandom", "C_GetFunctionStatus", "C_CancelFunction", "C_WaitForSlotEvent",
        "C_GetInterfaceList", "C_GetInterface", "C_LoginUser", "C_SessionCancel", "C_MessageEncryptInit",
        "C_EncryptMessage", "C_EncryptMessageBegin", "C_EncryptMessageNext", "C_MessageEncryptFinal",
        "C_MessageDecryptInit", "C_DecryptMessage", "C_DecryptMessageBegin", "C_DecryptMessageNext",
        "C_MessageDecryptFinal", "C_MessageSignInit", "C_SignMessage", "C_SignMessageBegin", "C_SignMessageNext",
        "C_MessageSignFinal", "C_MessageVerifyInit", "C_VerifyMessage", "C_VerifyMessageBegin", "C_VerifyMessageNext",
        "C_MessageVerifyFinal", "C_EncapsulateKey", "C_DecapsulateKey", "C_VerifySignatureInit", "C_VerifySignature",
        "C_VerifySignatureUpdate", "C_VerifySignatureFinal", "C_GetSessionValidationFlags", "C_AsyncComplete",
        "C_AsyncGetID", "C_AsyncJoin", "C_WrapKeyAuthenticated", "C_UnwrapKeyAuthenticated"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        function run = named(names[i]);
        int first_is_a_pointer = strstr("C_GetInfo C_GetFunctionList C_GetInterfaceList C_GetInterface", names[i]) != 0;
        ulong_t known = first_is_a_pointer ? 0 : session, unknown = first_is_a_pointer ? 0 : session ^ 0xFF00;
        if (run(0UL, 0UL, 0UL, 0UL, 0UL, 0UL, 0UL, 0UL, 0UL, 0UL) == GENERAL_ERROR ||
            run(known, 0UL, 0UL, 0UL, 0UL, 0UL, 0UL, 0UL, 0UL, 0UL) == GENERAL_ERROR ||
            run(unknown, 0UL, 0UL, 0UL, 0UL, 0UL, 0UL, 0UL, 0UL, 0UL) == GENERAL_ERROR) {
            fprintf(stderr, "%s panicked\n", names[i]);
            exit(1);
        }
    }
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    variable("KAGIMORI_CONFIG");
    load(arguments[1]);
    EXPECT(NOT_INITIALIZED, C_GetSlotList, (byte)1, (void *)0, (void *)0);
    EXPECT(NOT_INITIALIZED, C_Finalize, (void *)0);
    initialize();
    session = log_in();
    templates();
    strange_mechanisms();
    operations();
    every_function();
    EXPECT(OK, C_CloseSession, session);
    EXPECT(SESSION_HANDLE_INVALID, C_CloseSession, session);
    EXPECT(OK, C_Finalize, (void *)0);
    puts("hostile: passed");
    return 0;
}
