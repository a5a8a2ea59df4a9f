/* The client's side: one live connection to the hub, brought back after every loss, resumed where that is possible. */
#ifndef SV_ENGINE_DIALER_H
#define SV_ENGINE_DIALER_H

#include "engine/core.h"

int sv_dialer_new(struct sv_dialer **dialer, struct sv_worker *worker, const sv_client_config *config);
/* The first attempt; before the worker's thread starts. */
void sv_dialer_begin(struct sv_dialer *dialer);
/* No attempts any more: the worker is stopping. */
void sv_dialer_stop(struct sv_dialer *dialer);
/* Before the worker's loop is closed. */
void sv_dialer_close(struct sv_dialer *dialer);
/* After the worker has been closed; free(NULL) is fine. */
void sv_dialer_free(struct sv_dialer *dialer);

#endif
