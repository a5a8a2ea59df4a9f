/* Keys: X25519, randomness, wiping, constant-time comparison and memory that is locked and never dumped. */
#ifndef SV_CRYPTO_KEYS_H
#define SV_CRYPTO_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SV_KEY = 32 };

/* libsodium; safe to call again. Everything below needs it. */
int sv_crypto_init(void);

void sv_random(void *dst, size_t len);
void sv_wipe(void *bytes, size_t len);

/* Constant-time. */
bool sv_equal(const void *a, const void *b, size_t len);

/* A clamped X25519 private key and its public half. */
void sv_x25519_generate(uint8_t private_key[SV_KEY], uint8_t public_key[SV_KEY]);
void sv_x25519_public(uint8_t public_key[SV_KEY], const uint8_t private_key[SV_KEY]);

/* RFC 7748. SV_E_AUTH when the result is all zeros. */
int sv_x25519(uint8_t shared[SV_KEY], const uint8_t private_key[SV_KEY], const uint8_t public_key[SV_KEY]);

/* Secrets of one size in locked, undumpable pages; what is returned is zeroed, put wipes. Thread-safe. Slots of one arena
 * are packed, since the limit of locked memory is small. Where the limit is reached the pages are not locked, with one warning. */
struct sv_arena;

struct sv_arena *sv_arena_new(size_t slot_size);
void sv_arena_free(struct sv_arena *arena);
void *sv_arena_get(struct sv_arena *arena);
void sv_arena_put(struct sv_arena *arena, void *slot);

#endif
