/* The whole public interface of libsmartvpn. */
#ifndef SMARTVPN_SMARTVPN_H
#define SMARTVPN_SMARTVPN_H

#include <smartvpn/base.h>
#include <smartvpn/config.h>
#include <smartvpn/engine.h>
#include <smartvpn/event.h>
#include <smartvpn/keys.h>
#include <smartvpn/process.h>
#include <smartvpn/wg.h>

#endif
