/*
 * One continuation on its way from the engine's events to text, token ids and log-probabilities. What has gathered is
 * taken with each chunk of a stream, or once at the end. One request, one thread.
 */
#ifndef API_CHOICE_H
#define API_CHOICE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "api/api_state.h"
#include "api/logprobs.h"
#include "api/params.h"
#include "api/prompt.h"
#include "base/buf.h"
#include "text/detok.h"

struct api_choice {
    const struct api_prompt *prompt;
    const struct api_params *params;
    struct api *api;
    int index;                   /* in the answer */
    int prompt_index, sub_index; /* as in the engine's events */
    int max_tokens;              /* the engine ends it at that many */
    struct text_detok *detok;
    /* gathered since the last take */
    struct buf text;
    json_t *token_ids; /* list, or NULL when not asked for */
    bool has_logprobs;
    struct api_logprobs logprobs;
    int n_fresh_tokens;
    /* whole */
    json_t *prompt_logprobs; /* list, or NULL */
    int n_tokens;
    int n_cached;  /* tokens of the prompt that were cached */
    bool is_begun; /* a chunk of it was sent */
    bool is_finished;
    enum api_finish finish;
    json_t *stop_reason; /* string, integer or NULL */
    int64_t start_ns, started_ns, first_ns, last_ns; /* arrived; in its first step; first and last token. 0: not yet */
};

int api_choice_init(struct api_choice *choice, struct api *api, const struct api_params *params, const struct api_prompt *prompt,
                    int64_t start_ns, struct api_error *error);
void api_choice_destroy(struct api_choice *choice); /* accepts a zeroed one */

/*
 * Takes an event of this choice. Returns 1 when it asks for a chunk, 0 when not, -1 when the text could not be made.
 * *ret_cancel: the engine should stop this choice, a stop string was found.
 */
int api_choice_take(struct api_choice *choice, const struct engine_event *event, bool *ret_cancel);

/* JSON of what has gathered, each a new reference (null where not asked for); the gathered part is empty afterwards. */
json_t *api_choice_take_text(struct api_choice *choice);
json_t *api_choice_take_ids(struct api_choice *choice);
json_t *api_choice_take_logprobs(struct api_choice *choice);
/* "stop", …, or null while it runs; the stop string or id that ended it, or null; all of the prompt's log-probabilities. */
json_t *api_choice_reason(const struct api_choice *choice);
json_t *api_choice_stop_reason(const struct api_choice *choice);
json_t *api_choice_prompt_logprobs(const struct api_choice *choice);

#endif
