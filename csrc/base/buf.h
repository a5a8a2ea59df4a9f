/* Packet buffers with headroom, from a pool that belongs to one worker.
 *
 *     mem            data                end               mem + size
 *     |-- headroom --|-- bytes --------|-- tailroom ------|
 *
 * Headers are pushed into the headroom, tags are put into the tailroom: packets are not copied.
 */
#ifndef SV_BASE_BUF_H
#define SV_BASE_BUF_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SV_BUF_HEADROOM = 64,     /* WebSocket and frame headers, or a WireGuard data header */
    SV_BUF_SMALL = 2048,      /* payload room of the small class: any packet of a usual MTU */
    SV_BUF_LARGE = 66 * 1024, /* payload room of the large class: any super-packet and its tag */
};

struct sv_buf_pool;

struct sv_buf {
    struct sv_buf *next;      /* free list or queue; NULL when in neither */
    struct sv_buf_pool *pool; /* where put() returns it */
    uint8_t *data, *end;      /* mem <= data <= end <= mem + size */
    uint32_t size;            /* bytes of mem, headroom included */
    /* What travels with a queued packet. */
    uint64_t stamp;        /* ns: deadline or time of arrival */
    uint32_t tag;          /* user's: flow hash, peer index */
    uint16_t segment_size; /* of a super-packet, else 0 */
    uint8_t kind;          /* of a super-packet, else 0 */
    uint8_t klass;         /* QoS class */
    uint8_t mem[];
};

/* Buffers in use are bounded: at most max_large and max_small; beyond that get() returns NULL. */
struct sv_buf_pool {
    struct sv_buf *free_small, *free_large;
    uint32_t used_small, used_large; /* handed out, not yet returned */
    uint32_t max_small, max_large;
    struct sv_buf *_Atomic returned; /* stack of buffers that other threads are done with */
};

void sv_buf_pool_init(struct sv_buf_pool *pool, uint32_t max_small, uint32_t max_large);

/* Frees the idle buffers; every buffer must have been returned. */
void sv_buf_pool_clear(struct sv_buf_pool *pool);

/* A buffer with at least `room` payload bytes behind SV_BUF_HEADROOM, empty; NULL when the bound or memory is reached. */
struct sv_buf *sv_buf_get(struct sv_buf_pool *pool, size_t room);

/* Back to its pool; put(NULL) is fine. Only on the pool's own thread. */
void sv_buf_put(struct sv_buf *buf);

/* The same from any other thread; the pool takes it back at its next collect. */
void sv_buf_put_remote(struct sv_buf *buf);
void sv_buf_pool_collect(struct sv_buf_pool *pool);

static inline size_t sv_buf_len(const struct sv_buf *buf)
{
    return (size_t)(buf->end - buf->data);
}

static inline size_t sv_buf_headroom(const struct sv_buf *buf)
{
    return (size_t)(buf->data - buf->mem);
}

static inline size_t sv_buf_tailroom(const struct sv_buf *buf)
{
    return (size_t)(buf->mem + buf->size - buf->end);
}

/* Empty again, with the usual headroom. */
static inline void sv_buf_reset(struct sv_buf *buf)
{
    buf->data = buf->end = buf->mem + SV_BUF_HEADROOM;
    buf->segment_size = 0;
    buf->kind = 0;
}

/* Makes room for n bytes in front of the data and returns it; the caller knows the headroom is there. */
static inline uint8_t *sv_buf_push(struct sv_buf *buf, size_t n)
{
    assert(n <= sv_buf_headroom(buf));
    buf->data -= n;
    return buf->data;
}

#endif
