/* What inner TCP connections sent last while nothing came back: a copy of each flow's last packet. The next link sends it again, and the flow goes on at
 * once; by itself it would wait for its retransmission timer, which doubles with every try, for as long as the outage lasted. */
#ifndef SV_ENGINE_KEEP_H
#define SV_ENGINE_KEEP_H

#include <stddef.h>
#include <stdint.h>

struct sv_worker;
struct sv_kept;

/* All zeros: nothing is kept. */
struct sv_keep {
    struct sv_kept *slots; /* NULL until needed */
    uint64_t newest;       /* ns */
};

/* At most SV_BUF_SMALL bytes. A flow's packet takes its former one's place, a new flow's the oldest. What memory is short for is not kept. */
void sv_keep_note(struct sv_keep *keep, uint64_t now, uint32_t flow, const uint8_t *packet, size_t len);
/* Something came back at `since` (ns): all of it is forgotten, unless a part is later. */
void sv_keep_answered(struct sv_keep *keep, uint64_t since);
/* *from is empty afterwards; what *to had is forgotten. */
void sv_keep_move(struct sv_keep *to, struct sv_keep *from);
void sv_keep_clear(struct sv_keep *keep);
/* Those later than `since` (ns), on the way that packets from the TUN go; then none is kept. */
void sv_keep_resend(struct sv_keep *keep, struct sv_worker *worker, uint64_t since);

#endif
