/* The TUN device, a real one in a network namespace of this program's own. */
#include "io/tun.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <smartvpn/base.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "tests/c/check.h"

enum { MTU = 1400, PORT = 4000, PACKET_MAX = 65535 + 64 };

static struct sv_tun tun;

/* ---- the kernel's side ---- */

static struct ifreq ask(unsigned long what, const char *name)
{
    struct ifreq request = {0};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    CHECK_EQ(ioctl(fd, what, &request), 0);
    close(fd);
    return request;
}

/* 10.1.0.1/24 on the device, so that the kernel sends what is for 10.1.0.2 there. */
static void give_address(void)
{
    struct ifreq request = {0};
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = inet_addr("10.1.0.1")};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    memcpy(request.ifr_name, tun.name, sizeof request.ifr_name);
    memcpy(&request.ifr_addr, &addr, sizeof addr);
    CHECK_EQ(ioctl(fd, SIOCSIFADDR, &request), 0);
    addr.sin_addr.s_addr = inet_addr("255.255.255.0");
    memcpy(&request.ifr_netmask, &addr, sizeof addr);
    CHECK_EQ(ioctl(fd, SIOCSIFNETMASK, &request), 0);
    close(fd);
}

static uint32_t link_attribute(unsigned short type)
{
    struct {
        struct nlmsghdr header;
        struct ifinfomsg info;
    } request = {{.nlmsg_len = sizeof request, .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST},
                 {.ifi_index = (int)tun.index}};
    static _Alignas(struct nlmsghdr) char answer[16384];
    int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    struct nlmsghdr *header = (void *)answer;
    uint32_t value = 0;

    CHECK_EQ(send(fd, &request, sizeof request, 0), sizeof request);
    CHECK(recv(fd, answer, sizeof answer, 0) > 0);
    if (header->nlmsg_type == RTM_NEWLINK) {
        size_t left = IFLA_PAYLOAD(header);

        for (struct rtattr *attr = IFLA_RTA(NLMSG_DATA(header)); RTA_OK(attr, left);
             attr = RTA_NEXT(attr, left)) {
            if (attr->rta_type == type) {
                memcpy(&value, RTA_DATA(attr), sizeof value);
            }
        }
    }
    close(fd);
    return value;
}

static int udp_socket(void)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = inet_addr("10.1.0.1")};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    CHECK_EQ(bind(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    return fd;
}

static void send_udp(int fd, const void *bytes, size_t len)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = inet_addr("10.1.0.2")};

    CHECK_EQ(sendto(fd, bytes, len, 0, (struct sockaddr *)&to, sizeof to), len);
}

/* ---- our side ---- */

static bool is_our_udp(const uint8_t *packet, size_t len)
{
    return len >= 28 && packet[0] == 0x45 && packet[9] == IPPROTO_UDP && sv_load16be(packet + 22) == PORT;
}

/* The next UDP packet of ours, from whichever queue; the kernel's own (router solicitations) are passed over. Its length, 0 after 20 s. */
static size_t read_udp(struct sv_vnet *vnet, uint8_t *packet)
{
    struct pollfd ready[8];
    size_t len = 0;

    for (size_t i = 0; i < tun.queue_count; i++) {
        ready[i] = (struct pollfd){.fd = tun.queues[i], .events = POLLIN};
    }
    while (poll(ready, tun.queue_count, 20000) > 0) {
        for (size_t i = 0; i < tun.queue_count; i++) {
            if (sv_tun_read(tun.queues[i], vnet, packet, PACKET_MAX, &len) == 0 && is_our_udp(packet, len)) {
                return len;
            }
        }
    }
    return 0;
}

static void open_up(size_t queues)
{
    CHECK_EQ(sv_tun_open(&tun, "svt%d", queues), 0);
    CHECK_EQ(sv_tun_up(&tun, MTU), 0);
    give_address();
}

static void the_device_is_what_was_asked(void)
{
    CHECK_EQ(sv_tun_open(&tun, "svtest", 1), 0);
    CHECK_STR(tun.name, "svtest");
    CHECK_EQ(tun.queue_count, 1);
    CHECK_EQ(tun.index, if_nametoindex("svtest"));
    CHECK(tun.index != 0);
    CHECK_EQ(ask(SIOCGIFFLAGS, "svtest").ifr_flags & IFF_UP, 0);
    CHECK_EQ(sv_tun_up(&tun, MTU), 0);
    CHECK(ask(SIOCGIFFLAGS, "svtest").ifr_flags & IFF_UP);
    CHECK_EQ(ask(SIOCGIFMTU, "svtest").ifr_mtu, MTU);
    CHECK_EQ(sv_tun_up(&tun, 1280), 0);
    CHECK_EQ(ask(SIOCGIFMTU, "svtest").ifr_mtu, 1280);
    CHECK_EQ(link_attribute(IFLA_GSO_MAX_SIZE), 61000);
    sv_tun_close(&tun);
    CHECK_EQ(if_nametoindex("svtest"), 0);
}

static void the_kernel_chooses_a_name(void)
{
    struct sv_tun other;

    CHECK_EQ(sv_tun_open(&tun, "svt%d", 1), 0);
    CHECK_EQ(sv_tun_open(&other, "svt%d", 1), 0);
    CHECK_STR(tun.name, "svt0");
    CHECK_STR(other.name, "svt1");
    sv_tun_close(&other);
    sv_tun_close(&tun);
}

static void faults_are_told(void)
{
    struct sv_tun other;

    CHECK_EQ(sv_tun_open(&tun, "svt%d", 1), 0);
    CHECK_EQ(sv_tun_open(&other, tun.name, 1), SV_E_IN_USE);
    CHECK_STR(sv_error_detail(), "cannot make the TUN device: Device or resource busy");
    CHECK_EQ(other.queue_count, 0);
    CHECK_EQ(sv_tun_open(&other, "a-name-of-16-char", 1), SV_E_INVALID);
    CHECK_STR(sv_error_detail(), "interface name 'a-name-of-16-char' is longer than 15 bytes");
    CHECK_EQ(sv_tun_up(&tun, 1), SV_E_SYSTEM);
    CHECK_STR(sv_error_detail(), "cannot set the MTU: Invalid argument");
    sv_tun_close(&tun);
    CHECK_EQ(sv_tun_up(&tun, MTU), SV_E_UNSUPPORTED);
    sv_tun_close(&tun);
}

static void every_queue_has_the_header_and_its_own_fd(void)
{
    CHECK_EQ(sv_tun_open(&tun, "svt%d", 4), 0);
    CHECK_EQ(tun.queue_count, 4);
    for (size_t i = 0; i < tun.queue_count; i++) {
        struct ifreq request = {0};
        int header = 0;

        CHECK_EQ(ioctl(tun.queues[i], TUNGETIFF, &request), 0);
        CHECK_STR(request.ifr_name, tun.name);
        CHECK_EQ(request.ifr_flags & (IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE),
                 IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE);
        CHECK_EQ(ioctl(tun.queues[i], TUNGETVNETHDRSZ, &header), 0);
        CHECK_EQ(header, sizeof(struct sv_vnet));
        for (size_t j = 0; j < i; j++) {
            CHECK(tun.queues[i] != tun.queues[j]);
        }
    }
    sv_tun_close(&tun);
}

/* The checksum is left to us: partial, with the place where it belongs. */
static void a_packet_comes_with_its_offload_header(size_t queues)
{
    static uint8_t packet[PACKET_MAX];
    struct sv_vnet vnet;
    int fd;

    open_up(queues);
    fd = udp_socket();
    send_udp(fd, "hello", 5);
    CHECK_EQ(read_udp(&vnet, packet), 20 + 8 + 5);
    CHECK_MEM(packet + 28, "hello", 5);
    CHECK_EQ(vnet.flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
    CHECK_EQ(vnet.gso_type, VIRTIO_NET_HDR_GSO_NONE);
    CHECK_EQ(vnet.csum_start, 20);
    CHECK_EQ(vnet.csum_offset, 6);
    close(fd);
    sv_tun_close(&tun);
}

static void one_queue_reads(void)
{
    a_packet_comes_with_its_offload_header(1);
}

static void many_queues_read(void)
{
    a_packet_comes_with_its_offload_header(4);
}

static void an_empty_queue_blocks_nobody(void)
{
    static uint8_t packet[PACKET_MAX];
    struct sv_vnet vnet;
    size_t len;

    CHECK_EQ(sv_tun_open(&tun, "svt%d", 1), 0);
    CHECK_EQ(sv_tun_read(tun.queues[0], &vnet, packet, sizeof packet, &len), SV_E_AGAIN);
    sv_tun_close(&tun);
}

/* What the application sends as one is read as one, where the kernel has USO; else in its segments. */
static void udp_segments_come_whole(void)
{
    enum { SEGMENT = 1000, SEGMENTS = 10 };
    static uint8_t packet[PACKET_MAX], payload[SEGMENT * SEGMENTS];
    int segment = SEGMENT, fd;
    struct sv_vnet vnet;
    size_t len, total = 0;

    open_up(2);
    fd = udp_socket();
    CHECK_EQ(setsockopt(fd, SOL_UDP, UDP_SEGMENT, &segment, sizeof segment), 0);
    send_udp(fd, payload, sizeof payload);
    do {
        len = read_udp(&vnet, packet);
        total += len ? len - 28 : 0;
        CHECK_EQ(len, 28 + (tun.udp_gso ? SEGMENT * SEGMENTS : SEGMENT));
        CHECK_EQ(vnet.gso_type, tun.udp_gso ? VIRTIO_NET_HDR_GSO_UDP_L4 : VIRTIO_NET_HDR_GSO_NONE);
        CHECK_EQ(vnet.gso_size, tun.udp_gso ? SEGMENT : 0);
    } while (len && total < sizeof payload);
    CHECK_EQ(total, sizeof payload);
    close(fd);
    sv_tun_close(&tun);
}

static void put_ip_checksum(uint8_t *ip)
{
    uint32_t sum = 0;

    for (size_t i = 0; i < 20; i += 2) {
        sum += sv_load16be(ip + i);
    }
    sum = (sum & 0xFFFF) + (sum >> 16);
    sv_store16be(ip + 10, (uint16_t)~(sum + (sum >> 16)));
}

/* IPv4 and UDP (without a checksum) from 10.1.0.2 to 10.1.0.1. */
static void make_headers(uint8_t headers[28], size_t payload)
{
    memset(headers, 0, 28);
    headers[0] = 0x45;
    sv_store16be(headers + 2, (uint16_t)(28 + payload));
    headers[8] = 64;
    headers[9] = IPPROTO_UDP;
    memcpy(headers + 12, (uint8_t[]){10, 1, 0, 2, 10, 1, 0, 1}, 8);
    put_ip_checksum(headers);
    sv_store16be(headers + 20, PORT);
    sv_store16be(headers + 22, PORT);
    sv_store16be(headers + 24, (uint16_t)(8 + payload));
}

static void pieces_are_written_as_one_packet(void)
{
    uint8_t headers[28];
    char got[64];
    struct sv_vnet vnet = {0};
    struct pollfd ready;
    int fd;

    open_up(3);
    fd = udp_socket();
    ready = (struct pollfd){.fd = fd, .events = POLLIN};
    make_headers(headers, 10);
    for (size_t i = 0; i < tun.queue_count; i++) {
        struct iovec iov[4] = {{NULL, 0}, {headers, 28}, {"hello", 5}, {"world", 5}};

        CHECK_EQ(sv_tun_write(tun.queues[i], &vnet, iov, 4), 0);
        CHECK_EQ(poll(&ready, 1, 20000), 1);
        CHECK_EQ(recv(fd, got, sizeof got, MSG_DONTWAIT), 10);
        CHECK_MEM(got, "helloworld", 10);
    }
    close(fd);
    sv_tun_close(&tun);
}

/* A super-packet written whole reaches the socket as its segments, with the checksum the kernel fills in. */
static void a_super_packet_is_written_whole(void)
{
    enum { SEGMENT = 1000, SEGMENTS = 5 };
    uint8_t headers[28];
    static uint8_t payload[SEGMENT * SEGMENTS], got[SEGMENT * SEGMENTS];
    struct sv_vnet vnet = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                           .gso_type = VIRTIO_NET_HDR_GSO_UDP_L4,
                           .hdr_len = 28,
                           .gso_size = SEGMENT,
                           .csum_start = 20,
                           .csum_offset = 6};
    struct iovec iov[3] = {{NULL, 0}, {headers, 28}, {payload, sizeof payload}};
    struct pollfd ready;
    int fd;

    open_up(1);
    fd = udp_socket();
    ready = (struct pollfd){.fd = fd, .events = POLLIN};
    make_headers(headers, sizeof payload);
    CHECK_EQ(sv_tun_write(tun.queues[0], &vnet, iov, 3), 0);
    for (size_t i = 0; i < SEGMENTS; i++) {
        CHECK_EQ(poll(&ready, 1, 20000), 1);
        CHECK_EQ(recv(fd, got, sizeof got, MSG_DONTWAIT), SEGMENT);
    }
    close(fd);
    sv_tun_close(&tun);
}

static void nonsense_is_refused_by_the_kernel(void)
{
    struct sv_vnet vnet = {0}, broken = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 60000};
    uint8_t headers[28];
    struct iovec iov[2] = {{NULL, 0}, {headers, 28}};

    open_up(1);
    make_headers(headers, 0);
    headers[0] = 0xF5;
    CHECK_EQ(sv_tun_write(tun.queues[0], &vnet, iov, 2), SV_E_SYSTEM);
    headers[0] = 0x45;
    CHECK_EQ(sv_tun_write(tun.queues[0], &broken, iov, 2), SV_E_SYSTEM);
    CHECK_EQ(sv_tun_write(tun.queues[0], &vnet, iov, 2), 0);
    sv_tun_close(&tun);
}

static bool enter_namespace(void)
{
    if (unshare(CLONE_NEWNET) == 0 && access("/dev/net/tun", R_OK | W_OK) == 0) {
        return true;
    }
    fprintf(stderr, "test_io_tun: needs root and /dev/net/tun: %s\n", strerror(errno));
    return false;
}

int main(void)
{
    bool ready = enter_namespace();

    CHECK(ready);
    if (!ready) {
        return CHECK_DONE("test_io_tun");
    }
    RUN(the_device_is_what_was_asked);
    RUN(the_kernel_chooses_a_name);
    RUN(faults_are_told);
    RUN(every_queue_has_the_header_and_its_own_fd);
    RUN(one_queue_reads);
    RUN(many_queues_read);
    RUN(an_empty_queue_blocks_nobody);
    RUN(udp_segments_come_whole);
    RUN(pieces_are_written_as_one_packet);
    RUN(a_super_packet_is_written_whole);
    RUN(nonsense_is_refused_by_the_kernel);
    return CHECK_DONE("test_io_tun");
}
