/* The three QoS classes (product.md, "QoS on decrypted packets"). */
#ifndef SV_POLICY_CLASSIFY_H
#define SV_POLICY_CLASSIFY_H

#include <stddef.h>
#include <stdint.h>

#include "packet/ip.h"

enum sv_class { SV_CLASS_HIGH, SV_CLASS_NORMAL, SV_CLASS_LOW, SV_CLASS_COUNT };

/* Counts bytes per flow in 60 s windows, in a fixed table of one worker: 1 MB in the window makes the flow low. A colliding flow takes
 * the place of the one that was silent longest; nothing grows with what strangers send. */
struct sv_classifier;

struct sv_classifier *sv_classifier_new(size_t flows, const uint8_t secret[16]);
void sv_classifier_free(struct sv_classifier *classifier);

/* The packet's class; *flow gets a keyed hash of its 5-tuple (of addresses and protocol for fragments), 32 bits, for queues. */
enum sv_class sv_classify(struct sv_classifier *classifier, uint64_t now, const struct sv_ip *ip,
                          uint32_t *flow);

#endif
