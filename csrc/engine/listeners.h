/* The hub's listeners, by configuration. */
#ifndef SV_ENGINE_LISTENERS_H
#define SV_ENGINE_LISTENERS_H

#include "engine/core.h"

/* SV_E_IN_USE, SV_E_INVALID, SV_E_UNSUPPORTED with words. What was opened is closed with its worker. */
int sv_listeners_open(struct sv_engine *engine, const sv_server_config *config);

#endif
