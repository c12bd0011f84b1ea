/*
 * An engine for tests of the API: the symbols of engine/engine.h with tokens that a script decides. Each stream runs
 * on a thread of its own.
 */
#ifndef TESTS_FAKE_ENGINE_H
#define TESTS_FAKE_ENGINE_H

#include <stdatomic.h>

#include "engine/engine.h"

enum { FAKE_LAST_PROMPT = 64 };

struct engine {
    /* Set before serving. */
    int32_t eos;
    int n_vocab;
    const int32_t *script; /* what every choice says, again and again; NULL: ids that follow from prompt, seed and place */
    int n_script;
    int eos_after;        /* the choice says EOS after that many tokens (0: never) */
    int delay_ms;         /* before each token */
    int fail_after;       /* the engine dies after that many tokens of a stream (0: never) */
    int error_after;      /* the choice ends with ENGINE_FINISH_ERROR after that many (0: never) */
    int n_cached;         /* of every prompt */
    enum err_code refuse; /* engine_submit fails with it (ERR_NONE: does not) */
    /* What was seen. */
    atomic_int n_submitted, n_cancelled, n_closed, n_open, n_tokens;
    atomic_bool is_dead;
    struct exec_sampling last; /* of the last submitted request */
    int32_t last_prompt[FAKE_LAST_PROMPT];
    int n_last_prompt;
    int last_priority;
    char last_salt[32]; /* "": none */
};

#endif
