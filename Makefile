# Outrigger. `make demo` and `make test` are the two commands of the README; `make help` lists the others.
#
# Every folder of ROOMS becomes one static library named after its last path component; tests/unit/<room>/*.c becomes
# one Criterion program that links the libraries of LINK_<room> and nothing else, so that a pure room stays pure.

BUILD ?= build
CC    := gcc
SANITIZE ?= 0
# One short line a file; `make V=1` shows the commands.
V ?= 0
ifeq ($(V),0)
Q := @
say = @echo "  $(1)"
endif

ROOMS := sidecar/core sidecar/log sidecar/io sidecar/coord sidecar/peer sidecar/node sidecar/api sidecar/cli \
         backends/etcd backends/consul engines/ruvector

WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Werror -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wundef
CFLAGS_BASE := -std=c17 -D_GNU_SOURCE -g -O2 -fno-omit-frame-pointer -fstack-protector-strong -fPIE -I. -Iinclude -I$(BUILD)/gen -MMD -MP
LDFLAGS_BASE := -pie -Wl,-z,relro,-z,now
ifeq ($(SANITIZE),1)
BUILD_SUFFIX := -sanitize
CFLAGS_BASE += -fsanitize=address,undefined -fno-sanitize-recover=undefined
LDFLAGS_BASE += -fsanitize=address,undefined
else
CFLAGS_BASE += -D_FORTIFY_SOURCE=2
endif
OBJ := $(BUILD)/obj$(BUILD_SUFFIX)
LIB := $(BUILD)/lib$(BUILD_SUFFIX)
BIN := $(BUILD)/bin$(BUILD_SUFFIX)

# Libraries from Debian that a room's code needs at link time (docs/dependencies.md).
SYS_io    := -luv -lcurl -lssl -lcrypto
SYS_peer  := -lnghttp2 -lprotobuf-c -lzstd
SYS_api   := -lhttp_parser -lcrypto
SYS_json  := -lcjson
SYS_cli   := -lyaml -lcrypto
SYS_ALL   := $(SYS_cli) $(SYS_peer) $(SYS_api) $(SYS_json) $(SYS_io) -lpthread -lm

# Who may link whom (docs/architecture.md): the same arrows as the imports.
LINK_core     := core
LINK_log      := log core
LINK_io       := io core
LINK_coord    := coord io core
LINK_etcd     := etcd io core
LINK_consul   := consul io core
LINK_ruvector := ruvector io core
LINK_peer     := peer io log core
LINK_node     := node peer coord io log core
# The door's objects alone, without the rest of libnode: the tests put a fake node and fake peers behind it.
LINK_api      := api coord io core
UNIT_EXTRA_api = $(patsubst %.c,$(OBJ)/failing/%.of,$(wildcard sidecar/node/door*.c)) $(OBJ)/gen/outrigger.pb-c.o
LINK_cli      := cli api node etcd consul ruvector peer coord io log core
LIBS_core     := -lm
LIBS_log      := -lm -lpthread

libs = $(patsubst %,$(LIB)/lib%.a,$(LINK_$(1)))
syslibs = $(if $(LIBS_$(1)),$(LIBS_$(1)),$(SYS_ALL))

.PHONY: all clean help format format-check FORCE
all: $(BUILD)/outrigger$(BUILD_SUFFIX)

# $(call list,NAME,WORDS): a file that is rewritten only when its words change. Libraries and programs depend on the list of
# their objects, so that a source that is gone drops out of them; objects on the flags they were compiled with.
define list
$(OBJ)/$(1).list: FORCE
	@mkdir -p $$(@D)
	@echo '$$(strip $(2))' | cmp -s - $$@ || echo '$$(strip $(2))' > $$@
endef
FLAGS := $(OBJ)/flags.list
$(eval $(call list,flags,$(CC) $(CFLAGS_BASE) $(WARNINGS) $(CFLAGS)))

# --- generated protobuf code ---------------------------------------------------------------------------------------
PROTO_FILES := outrigger grpc/health/v1/health grpc/reflection/v1/reflection
# Reflection tells of v1alpha, too, for which older clients ask: the same under another name.
PROTO_ALPHA := grpc/reflection/v1alpha/reflection.proto
PROTO_H     := $(PROTO_FILES:%=$(BUILD)/gen/%.pb-c.h)
PROTO_SRC   := $(PROTO_FILES:%=$(BUILD)/gen/%.pb-c.c) $(BUILD)/gen/descriptor_set.c
PROTO_OBJ   := $(PROTO_SRC:$(BUILD)/%.c=$(OBJ)/%.o)
$(PROTO_H) $(PROTO_SRC) &: $(PROTO_FILES:%=sidecar/peer/%.proto)
	@mkdir -p $(BUILD)/gen $(dir $(BUILD)/gen/$(PROTO_ALPHA))
	$(call say,PROTOC sidecar/peer)
	$(Q)protoc-c --proto_path=sidecar/peer --c_out=$(BUILD)/gen $(PROTO_FILES:%=%.proto)
	$(Q)sed 's/^package .*/package grpc.reflection.v1alpha;/' sidecar/peer/grpc/reflection/v1/reflection.proto > $(BUILD)/gen/$(PROTO_ALPHA)
	$(Q)protoc-c --proto_path=sidecar/peer --proto_path=$(BUILD)/gen --include_imports \
	  --descriptor_set_out=$(BUILD)/gen/descriptor_set $(PROTO_FILES:%=%.proto) $(PROTO_ALPHA)
	$(Q){ echo '#include "sidecar/peer/descriptors.h"'; echo 'static const uint8_t set[] = {'; \
	  od -An -v -tx1 $(BUILD)/gen/descriptor_set | sed 's/ \(..\)/0x\1,/g'; \
	  echo '};'; echo 'const struct descriptors descriptors_own = {set, sizeof set};'; } > $(BUILD)/gen/descriptor_set.c
$(OBJ)/gen/%.o: $(BUILD)/gen/%.c $(FLAGS)
	@mkdir -p $(@D)
	$(call say,CC $<)
	$(Q)$(CC) $(CFLAGS_BASE) $(CFLAGS) -w -c $< -o $@

# --- rooms ---------------------------------------------------------------------------------------------------------
define room
SRC_$(notdir $(1)) := $$(wildcard $(1)/*.c)
OBJ_$(notdir $(1)) := $$(patsubst %.c,$(OBJ)/%.o,$$(SRC_$(notdir $(1))))
$(LIB)/lib$(notdir $(1)).a: $$(OBJ_$(notdir $(1))) $(OBJ)/lib$(notdir $(1)).list
$(call list,lib$(notdir $(1)),$$(OBJ_$(notdir $(1))))
endef
$(foreach r,$(ROOMS),$(eval $(call room,$(r))))
OBJ_peer += $(PROTO_OBJ)
$(LIB)/libpeer.a: $(PROTO_OBJ)

# Rooms that may see the generated header.
$(OBJ_peer) $(OBJ_node) $(OBJ_api) $(OBJ_cli): | $(PROTO_H)

MAIN_OBJ := $(OBJ)/sidecar/cli/main.o
$(LIB)/libcli.a: OBJ_cli_nomain = $(filter-out $(MAIN_OBJ),$(OBJ_cli))

$(OBJ)/%.o: %.c $(FLAGS)
	@mkdir -p $(@D)
	$(call say,CC $<)
	$(Q)$(CC) $(CFLAGS_BASE) $(WARNINGS) $(CFLAGS) -c $< -o $@

$(LIB)/%.a:
	@mkdir -p $(@D)
	@rm -f $@
	$(Q)ar rcsD $@ $(filter-out $(MAIN_OBJ),$(filter %.o,$^))

$(BUILD)/outrigger$(BUILD_SUFFIX): $(MAIN_OBJ) $(call libs,cli)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_BASE) $(LDFLAGS) -o $@ $(MAIN_OBJ) -Wl,--start-group $(call libs,cli) -Wl,--end-group $(SYS_ALL)

# --- unit tests: one Criterion program a room ------------------------------------------------------------------------
TEST_CFLAGS := $(filter-out -Wconversion -Wmissing-prototypes,$(WARNINGS)) -Wno-conversion
TESTLIB_OBJ := $(patsubst %.c,$(OBJ)/%.o,$(wildcard tests/lib/*.c))

$(OBJ)/tests/%.o: tests/%.c $(FLAGS)
	@mkdir -p $(@D)
	$(call say,CC $<)
	$(Q)$(CC) $(CFLAGS_BASE) $(TEST_CFLAGS) $(CFLAGS) -c $< -o $@

TESTLIB_log := fake_disk temp_dir
# A test counts the comparisons of tokens, and lets connections come from elsewhere.
UNIT_LDFLAGS_api := -Wl,--wrap=CRYPTO_memcmp,--wrap=uv_tcp_getpeername
TESTLIB_api := temp_dir test_certs
TESTLIB_core := fail_malloc
UNIT_LDFLAGS_core := -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc
TESTLIB_node := fake_backend fake_engine fake_store
TESTLIB_cli := fake_backend fake_store temp_dir test_certs
TESTLIB_io := http_stub temp_dir test_certs
TESTLIB_peer := temp_dir test_certs
TESTLIB_ruvector := ruvector_server
TESTLIB_etcd := http_stub

# Copies of libraries whose calls can be made to fail (tests/lib/fail_calls.h), and the objects that do it, for the rooms named.
FAIL_SYMS := $(OBJ)/failing/symbols
FAIL_OBJ_libc := $(OBJ)/failing/tests/lib/fail_calls.of
FAIL_OBJ_uv := $(FAIL_OBJ_libc) $(OBJ)/failing/tests/lib/fail_calls_uv.of
FAILING_ROOMS := log io coord peer etcd consul ruvector api cli
failing = $(patsubst $(LIB)/%,$(OBJ)/failing/%,$(1))
unitlibs = $(if $(filter $(1),$(FAILING_ROOMS)),$(call failing,$(call libs,$(1))) $(FAIL_OBJ_$(if $(LIBS_$(1)),libc,uv)),$(call libs,$(1)))
$(FAIL_SYMS): tests/lib/fail_calls.c tests/lib/fail_calls_uv.c
	@mkdir -p $(@D)
	$(Q)sed -n 's/^WRAP(\([a-zA-Z0-9_]*\),.*/\1 __wrap_\1\n__real_\1 \1/p' $^ > $@
$(OBJ)/failing/%.a: $(LIB)/%.a $(FAIL_SYMS)
	$(Q)objcopy --redefine-syms=$(FAIL_SYMS) $< $@
$(OBJ)/failing/%.of: $(OBJ)/%.o $(FAIL_SYMS)
	@mkdir -p $(@D)
	$(Q)objcopy --redefine-syms=$(FAIL_SYMS) $< $@

define unit
UNIT_OBJ_$(1) := $$(patsubst %.c,$(OBJ)/%.o,$$(wildcard tests/unit/$(1)/*.c)) $$(patsubst %,$(OBJ)/tests/lib/%.o,some_ran $$(TESTLIB_$(1)))
$$(UNIT_OBJ_$(1)): | $(PROTO_H)
$(call list,unit-$(1),$$(UNIT_OBJ_$(1)))
$(BIN)/unit-$(1): $$(UNIT_OBJ_$(1)) $$(UNIT_EXTRA_$(1)) $$(call unitlibs,$(1)) $(OBJ)/unit-$(1).list
	@mkdir -p $$(@D)
	$$(call say,LINK $$@)
	$(Q)$(CC) $(LDFLAGS_BASE) $(LDFLAGS) $$(UNIT_LDFLAGS_$(1)) -o $$@ $$(UNIT_OBJ_$(1)) $$(UNIT_EXTRA_$(1)) -Wl,--start-group $$(call unitlibs,$(1)) -Wl,--end-group -lcriterion $$(call syslibs,$(1))
.PHONY: unit-$(1)
unit-$(1): $(BIN)/unit-$(1)
	$(BIN)/unit-$(1)
endef
UNIT_ROOMS := $(notdir $(wildcard tests/unit/*))
$(foreach r,$(UNIT_ROOMS),$(eval $(call unit,$(r))))

# --- an independent gRPC implementation against the peer service; needs Node.js and its package registry -------------------
PEER_ECHO_OBJ := $(OBJ)/tests/peer-interop/peer_echo.o
$(PEER_ECHO_OBJ): | $(PROTO_H)
$(BIN)/peer-echo: $(PEER_ECHO_OBJ) $(call libs,peer)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_BASE) $(LDFLAGS) -o $@ $(PEER_ECHO_OBJ) -Wl,--start-group $(call libs,peer) -Wl,--end-group $(SYS_peer) $(SYS_io) -lpthread -lm
.PHONY: peer-interop
peer-interop: $(BIN)/peer-echo
	BUILD=$(BUILD) tests/peer-interop/run.sh

# --- conformance: the same cases against every coordination backend; BACKEND=etcd, consul or fake for one of them ------------------
CONFORMANCE_OBJ := $(patsubst %.c,$(OBJ)/%.o,$(wildcard tests/conformance/*.c)) \
                   $(patsubst %,$(OBJ)/tests/lib/%.o,consul_server etcd_server fake_backend fake_store relay some_ran temp_dir test_certs)
$(eval $(call list,conformance,$(CONFORMANCE_OBJ)))
$(BIN)/conformance: $(CONFORMANCE_OBJ) $(call libs,etcd) $(call libs,consul) $(OBJ)/conformance.list
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_BASE) $(LDFLAGS) -o $@ $(CONFORMANCE_OBJ) -Wl,--start-group $(call libs,etcd) $(call libs,consul) -Wl,--end-group -lcriterion $(SYS_json) $(SYS_io)
$(BUILD)/servers/etcd/.unpacked:
	BUILD=$(BUILD) scripts/fetch-etcd.sh
$(BUILD)/servers/consul/.unpacked:
	BUILD=$(BUILD) scripts/fetch-consul.sh
$(BUILD)/servers/etcd-3.5/.unpacked:
	BUILD=$(BUILD) scripts/fetch-etcd.sh 3.5
# BACKEND: etcd, consul (all worlds of them) or fake; CASES: a pattern of Criterion, "etcd_secure/*"; ETCD_VERSION: 3.5, else this system's.
ETCD_VERSION ?=
CASES ?= $(if $(BACKEND),$(BACKEND)*/*)
CONFORMANCE_ETCD := $(BUILD)/servers/etcd$(if $(ETCD_VERSION),-$(ETCD_VERSION))
CONFORMANCE_TMP := $(BUILD)/tmp/conformance$(BUILD_SUFFIX)$(if $(ETCD_VERSION),-$(ETCD_VERSION))
# Only where Consul is asked for: its package comes from another release of Debian.
CONFORMANCE_CONSUL := $(if $(or $(findstring consul,$(CASES)),$(if $(CASES),,all)),$(BUILD)/servers/consul/.unpacked)
.PHONY: conformance
conformance: $(BIN)/conformance $(BUILD)/outrigger$(BUILD_SUFFIX) $(BUILD)/servers/etcd/.unpacked $(CONFORMANCE_ETCD)/.unpacked $(CONFORMANCE_CONSUL)
	@rm -rf $(CONFORMANCE_TMP) && mkdir -p $(CONFORMANCE_TMP)
	TMPDIR=$(CONFORMANCE_TMP) ETCD=$(CONFORMANCE_ETCD)/usr/bin/etcd ETCDCTL=$(BUILD)/servers/etcd/usr/bin/etcdctl \
	  CONSUL=$(BUILD)/servers/consul/usr/bin/consul OUTRIGGER=$(BUILD)/outrigger$(BUILD_SUFFIX) $(BIN)/conformance -j4 $(if $(CASES),--filter '$(CASES)')

# --- conformance of engine drivers: the same cases on every engine; ENGINE=fake, ruvector-flat or ruvector-hnsw for one -----
ENGINES_OBJ := $(patsubst %.c,$(OBJ)/%.o,$(wildcard tests/conformance-engines/*.c)) \
               $(patsubst %,$(OBJ)/tests/lib/%.o,fake_engine http_stub ruvector_server some_ran)
$(eval $(call list,conformance-engines,$(ENGINES_OBJ)))
$(BIN)/conformance-engines: $(ENGINES_OBJ) $(call libs,ruvector) $(OBJ)/conformance-engines.list
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_BASE) $(LDFLAGS) -o $@ $(ENGINES_OBJ) -Wl,--start-group $(call libs,ruvector) -Wl,--end-group -lcriterion $(SYS_json) $(SYS_io) -lm
.PHONY: conformance-engines
conformance-engines: $(BIN)/conformance-engines
	$(Q)scripts/fetch-ruvector.sh >/dev/null
	$(BIN)/conformance-engines -j2 $(if $(ENGINE),--filter '$(subst -,_,$(ENGINE))/*')

# --- simulator: core and journal on virtual time, without libuv; SEED=n replays one with its whole trace, SEEDS=a-b runs many,
# HOURS=h goes on from the first of them for so long ---------------------------------------------------------------------------
SIM_OBJ := $(patsubst %.c,$(OBJ)/%.o,$(wildcard tests/simulation/*.c)) $(OBJ)/tests/lib/fake_disk.o
SEEDS ?= 1-2000
HOURS ?=
SIM_JOBS ?= 2
$(eval $(call list,simulate,$(SIM_OBJ)))
$(BIN)/simulate: $(SIM_OBJ) $(call libs,log) $(OBJ)/simulate.list
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_BASE) $(LDFLAGS) -o $@ $(SIM_OBJ) $(call libs,log) $(LIBS_log)
.PHONY: simulate
simulate: $(BIN)/simulate
	$(BIN)/simulate $(if $(SEED),--seeds $(SEED) --verbose,--seeds $(SEEDS) $(if $(HOURS),--hours $(HOURS)) --jobs $(SIM_JOBS) --counts)

# Deliberate bugs: does the simulator notice? MUTANT=name for one; MUTANT_SEEDS: how many seeds at most.
MUTANT ?=
MUTANT_SEEDS ?= 5000
.PHONY: mutants sim-variables
mutants: $(BIN)/simulate
	$(Q)/usr/bin/python3 tests/simulation/mutants.py --build $(BUILD) --seeds $(MUTANT_SEEDS) --jobs $(SIM_JOBS) $(MUTANT)
sim-variables:
	@echo 'cc=$(CC)'
	@echo 'obj=$(OBJ)'
	@echo 'cflags=$(filter-out -MMD -MP,$(CFLAGS_BASE)) $(CFLAGS)'
	@echo 'ldflags=$(LDFLAGS_BASE) $(LDFLAGS)'
	@echo 'sources=$(SRC_core) $(SRC_log) $(wildcard tests/simulation/*.c) tests/lib/fake_disk.c'
	@echo 'objects=$(SIM_OBJ)'
	@echo 'libs=$(call libs,log) $(LIBS_log)'

# --- benchmarks of one part; BENCH_DIR is on the disk to measure -----------------------------------------------------------
BENCH_DIR ?= $(BUILD)/bench
$(BIN)/bench-journal: $(OBJ)/tests/bench/bench_journal.o $(call libs,log)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_BASE) $(LDFLAGS) -o $@ $< $(call libs,log) $(LIBS_log)
.PHONY: bench-journal
bench-journal: $(BIN)/bench-journal
	@mkdir -p $(BENCH_DIR)
	$(BIN)/bench-journal $(BENCH_DIR)

$(BIN)/bench-compaction: $(OBJ)/tests/bench/bench_compaction.o $(call libs,log)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_BASE) $(LDFLAGS) -o $@ $< $(call libs,log) $(LIBS_log)
.PHONY: bench-compaction
bench-compaction: $(BIN)/bench-compaction
	@mkdir -p $(BENCH_DIR)
	$(BIN)/bench-compaction $(BENCH_DIR)

$(BIN)/bench-json: $(OBJ)/tests/bench/bench_json.o $(call libs,api)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_BASE) $(LDFLAGS) -o $@ $< -Wl,--start-group $(call libs,api) -Wl,--end-group -lm
.PHONY: bench-json
bench-json: $(BIN)/bench-json
	$(BIN)/bench-json

# What compressing entries gains and costs, on random vectors and on those of the demo.
$(BIN)/bench-compress: $(OBJ)/tests/bench/bench_compress.o $(call libs,peer)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_BASE) $(LDFLAGS) -o $@ $< -Wl,--start-group $(call libs,peer) -Wl,--end-group $(SYS_peer) $(SYS_io) -lpthread -lm
.PHONY: bench-compress
bench-compress: $(BIN)/bench-compress
	@mkdir -p $(BENCH_DIR)
	$(Q)cd examples/packages && /usr/bin/python3 -c 'import sys, embed, packages; embed.fit(packages.read()[:3000]).vectors.tofile(sys.argv[1])' $(abspath $(BENCH_DIR))/packages.f32
	$(BIN)/bench-compress $(BENCH_DIR)/packages.f32

# The figures of a whole cluster on this machine: writes, searches, failover, memory, lines of code. Some ten minutes.
$(BIN)/load: tests/bench/load.c
	@mkdir -p $(@D)
	$(call say,CC $<)
	$(Q)$(CC) $(CFLAGS_BASE) $(TEST_CFLAGS) $(CFLAGS) $< -o $@ -lpthread
# More load than a cluster can take: tests/cluster/test_overload.py.
$(BIN)/storm: tests/lib/storm.c
	@mkdir -p $(@D)
	$(call say,CC $<)
	$(Q)$(CC) $(CFLAGS_BASE) $(TEST_CFLAGS) $(CFLAGS) $< -o $@
# How long writing pauses, by kind of fault, each COUNT (10) times; as root, some 25 minutes.
.PHONY: bench bench-faults
bench-faults: all servers
	$(Q)BUILD=$(BUILD) /usr/bin/python3 tests/bench/bench_faults.py
bench: all $(BIN)/load servers
	$(Q)BUILD=$(BUILD) /usr/bin/python3 tests/bench/bench_writes.py
	$(Q)BUILD=$(BUILD) /usr/bin/python3 tests/bench/bench_failover.py
	$(Q)BUILD=$(BUILD) /usr/bin/python3 tests/bench/bench_memory.py
	$(Q)/usr/bin/python3 tests/bench/count_lines.py

# --- fuzzing: tests/fuzz/fuzz_NAME.c with libFuzzer (clang), one program for each parser of foreign bytes ----------------------
# What a target finds new stays in build/fuzz/corpus; a reproducer (build/fuzz/NAME-crash-...) goes into tests/fuzz/corpus.
FUZZ         := $(BUILD)/fuzz
FUZZ_CC      := clang
FUZZ_SECONDS ?= 60
FUZZ_DIR     := tests/fuzz
FUZZ_CORPUS  := $(FUZZ_DIR)/corpus
FUZZ_NAMES   := $(patsubst $(FUZZ_DIR)/fuzz_%.c,%,$(wildcard $(FUZZ_DIR)/fuzz_*.c))
FUZZ_CFLAGS  := $(filter-out -O2 -D_FORTIFY_SOURCE=2 -fsanitize% -fno-sanitize%,$(CFLAGS_BASE)) -O1 \
                -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
# The parsers and what they need. Not http_conn.c: fuzz_http.c plays it.
FUZZ_SRC     := $(wildcard sidecar/core/*.c sidecar/log/*.c sidecar/coord/*.c sidecar/api/json*.c) \
                $(patsubst %,sidecar/api/%.c,http_exchange http_guard http_request text tokens url) \
                $(patsubst %,sidecar/peer/%.c,compress grpc message) $(patsubst %,sidecar/node/%.c,compression wire) \
                $(patsubst %,sidecar/cli/%.c,config_file load_lines options) \
                $(patsubst %,sidecar/io/%.c,clock json_text kv_list log metrics random tls tls_session tls_verify) $(patsubst %,tests/lib/%.c,temp_dir test_certs) \
                backends/etcd/etcd_codec.c backends/etcd/etcd_stream.c $(patsubst %,backends/consul/%.c,consul_codec consul_diff consul_plan) engines/ruvector/ruvector_codec.c tests/lib/fake_disk.c
FUZZ_OBJ     := $(patsubst %.c,$(FUZZ)/obj/%.o,$(FUZZ_SRC)) $(PROTO_SRC:$(BUILD)/%.c=$(FUZZ)/obj/%.o)
$(FUZZ)/obj/gen/%.o: $(BUILD)/gen/%.c
	@mkdir -p $(@D)
	$(call say,FUZZCC $<)
	$(Q)$(FUZZ_CC) $(FUZZ_CFLAGS) -w -c $< -o $@
$(FUZZ)/obj/%.o: %.c | $(PROTO_H)
	@mkdir -p $(@D)
	$(call say,FUZZCC $<)
	$(Q)$(FUZZ_CC) $(FUZZ_CFLAGS) $(TEST_CFLAGS) $(CFLAGS) -c $< -o $@
$(FUZZ)/libparsers.a: $(FUZZ_OBJ)
	@rm -f $@
	$(Q)ar rcsD $@ $^
$(FUZZ)/bin/%: $(FUZZ)/obj/$(FUZZ_DIR)/fuzz_%.o $(FUZZ)/libparsers.a
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(FUZZ_CC) -pie -fsanitize=fuzzer,address,undefined $(LDFLAGS) -o $@ $^ $(SYS_ALL)
.PHONY: fuzz fuzz-replay fuzz-programs $(FUZZ_NAMES:%=fuzz-%) $(FUZZ_NAMES:%=fuzz-replay-%)
.PRECIOUS: $(FUZZ)/obj/%.o
fuzz-programs: $(FUZZ_NAMES:%=$(FUZZ)/bin/%)
$(FUZZ_NAMES:%=fuzz-%): fuzz-%: $(FUZZ)/bin/%
	@mkdir -p $(FUZZ)/corpus/$*
	$(FUZZ)/bin/$* -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
	  -artifact_prefix=$(FUZZ)/$*- $(FUZZ)/corpus/$* $(FUZZ_CORPUS)/$*
fuzz: $(FUZZ_NAMES:%=fuzz-%)
# Every file of the corpus once; a target without a corpus would check nothing.
$(FUZZ_NAMES:%=fuzz-replay-%): fuzz-replay-%: $(FUZZ)/bin/%
	$(Q)test -n "$$(ls $(FUZZ_CORPUS)/$*)"
	$(Q)$(FUZZ)/bin/$* -timeout=10 $(FUZZ_CORPUS)/$*/* 2>$(FUZZ)/$*.replay || { cat $(FUZZ)/$*.replay; exit 1; }
	@echo "fuzz-$*: $$(ls $(FUZZ_CORPUS)/$* | wc -l) files"
fuzz-replay: $(FUZZ_NAMES:%=fuzz-replay-%)

# --- the program with calls that fail at will, for tests/failing-calls ---------------------------------------
$(BIN)/outrigger-failing: $(MAIN_OBJ) $(call failing,$(call libs,cli)) $(FAIL_OBJ_uv)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_BASE) $(LDFLAGS) -o $@ $(MAIN_OBJ) -Wl,--start-group $(filter %.a %.of,$^) -Wl,--end-group $(SYS_ALL)
# FAILING: how many of each kind (of SEED), "all", or memory:17, call:100-200.
.PHONY: failing-calls
failing-calls: $(BIN)/outrigger-failing servers
	$(Q)$(MAKE) --no-print-directory all SANITIZE=0
	BUILD=$(BUILD) SANITIZE=$(SANITIZE) FAILING=$(or $(FAILING),20) /usr/bin/python3 -m unittest discover -s tests/failing-calls -p 'test_*.py'

# --- tests of the tests: programs that leak, overflow and read what nobody wrote; tests/canary/test_canary.py ---------------
CANARY_OBJ := $(patsubst %.c,$(OBJ)/%.o,$(wildcard tests/canary/*.c)) $(OBJ)/tests/lib/some_ran.o
$(BIN)/canary: $(CANARY_OBJ)
	@mkdir -p $(@D)
	$(call say,LINK $@)
	$(Q)$(CC) $(LDFLAGS_BASE) $(LDFLAGS) -o $@ $(CANARY_OBJ) -lcriterion

# --- everything the tests need; what they run is listed in tests/run.py -----------------------------------------------------
MODULES := engines/ruvector/node/node_modules
.PHONY: test test-long test-programs demo deps servers
# Installs what is missing and fetches what is not installed but unpacked.
servers: $(BUILD)/servers/etcd/.unpacked
	$(Q)scripts/fetch-ruvector.sh
	$(Q)BUILD=$(BUILD) scripts/fetch-promtool.sh
	-$(Q)BUILD=$(BUILD) scripts/fetch-consul.sh
test-programs: all $(patsubst %,$(BIN)/unit-%,$(UNIT_ROOMS)) $(BIN)/conformance $(BIN)/conformance-engines $(BIN)/simulate $(BIN)/canary $(BIN)/storm $(BIN)/outrigger-failing
test:
	$(Q)scripts/install-deps.sh build demo test
	$(Q)$(MAKE) --no-print-directory -j2 test-programs servers compile_commands.json
	$(Q)$(MAKE) --no-print-directory -j2 test-programs SANITIZE=1
	$(Q)$(MAKE) --no-print-directory -j2 fuzz-programs
	$(Q)/usr/bin/python3 tests/run.py --build $(BUILD) $(if $(BACKEND),--backend $(BACKEND))
test-long: test
	$(Q)/usr/bin/python3 tests/run.py --build $(BUILD) --set long $(if $(BACKEND),--backend $(BACKEND))
# Sidecars and engines killed and the network cut at random under load for so long, each node in a network namespace of its own; as root.
MINUTES ?= 10
.PHONY: soak
soak: all servers
	/usr/bin/python3 tests/lib/netns.py
	SOAK_MINUTES=$(MINUTES) BUILD=$(BUILD) /usr/bin/python3 tests/cluster-faults/test_kills.py -v

demo:
	$(Q)scripts/install-deps.sh build demo
	$(Q)$(MAKE) --no-print-directory -j2 all servers
	$(Q)/usr/bin/python3 examples/packages/demo.py

# For editors and clang-tidy: what the compiler is called with, one entry a file. Replaced at one go, and only when it changes.
SRC_ALL := $(foreach r,$(ROOMS),$(SRC_$(notdir $(r))))
compile_commands.json: FORCE
	$(Q)printf '%s\n' $(SRC_ALL) | awk -v cc="$(CC)" -v flags="$(filter-out -MMD -MP,$(CFLAGS_BASE)) $(WARNINGS)" -v dir="$(CURDIR)" \
	  'BEGIN {print "["} {printf "%s{\"directory\": \"%s\", \"file\": \"%s\", \"command\": \"%s %s -c %s\"}\n", (NR > 1 ? "," : ""), dir, $$0, cc, flags, $$0} END {print "]"}' > $@.$$$$ && \
	  if cmp -s $@.$$$$ $@; then rm $@.$$$$; else mv $@.$$$$ $@; fi

# What can be found without running it. Leaks and double frees are left to ASan, LeakSanitizer and valgrind: gcc 12 takes a pointer
# kept in a structure for one.
.PHONY: cppcheck analyze
cppcheck: $(PROTO_H)
	$(Q)cppcheck -j2 --quiet --std=c11 --enable=warning,portability,performance --inline-suppr --error-exitcode=1 \
	  --suppress=missingIncludeSystem --suppress='*:$(BUILD)/gen/*' -D_GNU_SOURCE -DPROTOBUF_C_VERSION_NUMBER=9999999 \
	  -I. -Iinclude -I$(BUILD)/gen --template='{file}:{line}: {severity}: {id}: {message}' $(SRC_ALL)
ANALYZE := -fanalyzer -Wno-analyzer-malloc-leak -Wno-analyzer-file-leak -Wno-analyzer-double-free
analyze: $(PROTO_H)
	$(Q)printf '%s\n' $(SRC_ALL) | xargs -P2 -I{} $(CC) $(filter-out -MMD -MP,$(CFLAGS_BASE)) $(WARNINGS) $(ANALYZE) -c {} -o /dev/null

# Only what clang-tidy objects to is shown, file by file; .clang-tidy has the checks.
.PHONY: tidy
tidy: compile_commands.json $(PROTO_H)
	$(Q)printf '%s\n' $(SRC_ALL) | xargs -P2 -I{} sh -c 'said=$$(clang-tidy --quiet -p . {} 2>&1) || { printf "%s\n" "$$said"; exit 1; }'

help:
	@echo "make               build/outrigger"
	@echo "make demo          installs what is missing, builds, runs the main job on real input"
	@echo "make test          installs what is missing, runs every test (tests/run.py has the list); BACKEND=consul: clusters on Consul"
	@echo "make unit-ROOM     the unit tests of one room: $(UNIT_ROOMS)"
	@echo "make conformance   coordination backends against real servers; BACKEND=etcd, consul or fake for one"
	@echo "make conformance-engines  engine drivers; ENGINE=fake, ruvector-flat or ruvector-hnsw for one"
	@echo "make failing-calls a node one of whose calls fails: FAILING=memory:17 for one, all for each"
	@echo "make soak          sidecars and engines killed, the network cut, under load for MINUTES (10), histories checked; as root"
	@echo "make bench-faults  the longest write pause by kind of fault, of COUNT (10) each; as root"
	@echo "make bench         figures of a whole cluster on this machine"
	@echo "make simulate      the simulator: SEED=n for one run with its trace, SEEDS=a-b for many, HOURS=h for so long"
	@echo "make bench-compress  what compressing entries gains and costs"
	@echo "make mutants       deliberate bugs that the simulator must notice: a table; MUTANT=name for one"
	@echo "make fuzz-NAME     fuzzes one parser for FUZZ_SECONDS (60): $(FUZZ_NAMES); make fuzz: all of them"
	@echo "make fuzz-replay   their corpora alone, quickly"
	@echo "make tidy          clang-tidy on all of the program; make cppcheck, make analyze (gcc -fanalyzer) likewise"
	@echo "make format        settles the layout of all C files"
	@echo "SANITIZE=1         the same with AddressSanitizer and UndefinedBehaviorSanitizer; V=1 shows the commands"

# --- layout ----------------------------------------------------------------------------------------------------------
FORMATTED = $(shell git ls-files -co --exclude-standard '*.c' '*.h')
format:
	clang-format -i $(FORMATTED)
format-check:
	clang-format --dry-run -Werror $(FORMATTED)

clean:
	rm -rf $(BUILD)

-include $(shell find $(OBJ) $(FUZZ)/obj -name '*.d' 2>/dev/null)
