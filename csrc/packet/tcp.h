/* Where the fields of TCP and UDP headers lie, and TCP's flags: what splitting and merging share. */
#ifndef SV_PACKET_TCP_H
#define SV_PACKET_TCP_H

enum {
    SV_TCP_SEQ = 4,
    SV_TCP_ACK_NUMBER = 8,
    SV_TCP_OFFSET = 12,
    SV_TCP_FLAGS = 13,
    SV_TCP_WINDOW = 14,
    SV_TCP_CHECKSUM = 16,
    SV_TCP_URGENT = 18,
};

enum {
    SV_TCP_FIN = 0x01,
    SV_TCP_SYN = 0x02,
    SV_TCP_RST = 0x04,
    SV_TCP_PSH = 0x08,
    SV_TCP_ACK = 0x10,
    SV_TCP_URG = 0x20,
    SV_TCP_CWR = 0x80,
};

enum { SV_UDP_LENGTH = 4, SV_UDP_CHECKSUM = 6 };

#endif
