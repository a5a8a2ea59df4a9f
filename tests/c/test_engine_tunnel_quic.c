/* The same over QUIC. */
#define OVER_QUIC
#include "tests/c/test_engine_tunnel.c"
