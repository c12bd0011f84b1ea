# The two commands of the README, and what they are made of. CMake does the building.
#   make        builds build/shoal
#   make run    installs what is missing, builds, fetches a small real model and serves it   [MODEL=… ARGS=…]
#   make test   installs what is missing, builds, and passes all tests
BUILD ?= build
MODEL ?=
ARGS  ?= --host 127.0.0.1 --port 8000 --pipeline-parallel-size 2

.PHONY: all run test test-release test-sanitizers deps-run deps-test install clean

all:
	@cmake -S . -B $(BUILD) -G Ninja -DBUILD_TESTING=OFF $(CMAKE_ARGS) >/dev/null
	@cmake --build $(BUILD) --target shoal

deps-run:
	@scripts/install-deps.sh run

deps-test:
	@scripts/install-deps.sh test

run: deps-run all
	@model="$(MODEL)"; \
	if [ -z "$$model" ]; then model=$$(scripts/fetch-model.sh $(BUILD)/models) || exit 1; fi; \
	exec $(BUILD)/shoal serve "$$model" $(ARGS)

test: deps-test test-release test-sanitizers

test-release:
	cmake -S . -B $(BUILD) -G Ninja -DBUILD_TESTING=ON $(CMAKE_ARGS) >/dev/null
	cmake --build $(BUILD)
	ctest --test-dir $(BUILD) --output-on-failure --timeout 900

# The unit tests again: memory errors and undefined behaviour, then data races. Warnings are errors in the plain build alone: with
# sanitizers GCC warns of what their checks make of the code.
test-sanitizers:
	cmake -S . -B $(BUILD)-asan -G Ninja -DBUILD_TESTING=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSHOAL_SANITIZE=address,undefined -DSHOAL_WERROR=OFF >/dev/null
	cmake --build $(BUILD)-asan
	ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	    ctest --test-dir $(BUILD)-asan -L unit --output-on-failure --timeout 900
	cmake -S . -B $(BUILD)-tsan -G Ninja -DBUILD_TESTING=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSHOAL_SANITIZE=thread -DSHOAL_WERROR=OFF >/dev/null
	cmake --build $(BUILD)-tsan
	TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1 \
	    ctest --test-dir $(BUILD)-tsan -L threads --output-on-failure --timeout 900

install: all
	install -D -m 755 $(BUILD)/shoal $(DESTDIR)/usr/local/bin/shoal
	install -d $(DESTDIR)/usr/local/share/man/man1
	$(BUILD)/shoal help --man > $(DESTDIR)/usr/local/share/man/man1/shoal.1

clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-tsan
