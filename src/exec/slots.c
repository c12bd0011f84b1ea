/* Per-slot state of a rank; see slots.h. */
#include "exec/slots.h"

#include <stdlib.h>
#include <string.h>

int exec_slots_init(struct exec_slots *slots, int n_slots, int max_model_len, int block_size, int n_blocks, struct err *err) {
    *slots = (struct exec_slots){.n_slots = n_slots,
                                 .cap_blocks = (max_model_len + block_size - 1) / block_size,
                                 .max_model_len = max_model_len,
                                 .block_size = block_size,
                                 .n_blocks = n_blocks};
    slots->slots = calloc((size_t)n_slots, sizeof *slots->slots);
    return slots->slots == NULL ? err_set(err, ERR_NOMEM, "no memory for %d sequence slots", n_slots) : 0;
}

void exec_slots_finish(struct exec_slots *slots) {
    for (int i = 0; slots->slots != NULL && i < slots->n_slots; i++) {
        free(slots->slots[i].blocks);
        free(slots->slots[i].tokens);
    }
    free(slots->slots);
    slots->slots = NULL;
}

static int slot_allocate(const struct exec_slots *slots, struct exec_slot *slot, struct err *err) {
    if (slot->blocks == NULL)
        slot->blocks = malloc((size_t)slots->cap_blocks * sizeof *slot->blocks);
    if (slot->tokens == NULL)
        slot->tokens = malloc((size_t)slots->max_model_len * sizeof *slot->tokens);
    return slot->blocks == NULL || slot->tokens == NULL ? err_set(err, ERR_NOMEM, "no memory for a sequence slot") : 0;
}

int exec_slots_apply(struct exec_slots *slots, const struct exec_entry *entry, struct err *err) {
    if (entry->slot >= slots->n_slots)
        return err_set(err, ERR_PEER, "a step names slot %d of %d", entry->slot, slots->n_slots);
    struct exec_slot *slot = &slots->slots[entry->slot];
    if (slot_allocate(slots, slot, err) != 0)
        return -1;
    int known_tokens = entry->fresh ? entry->position : slot->n_tokens;
    int known_blocks = entry->fresh ? 0 : slot->n_blocks;
    int n_blocks = entry->first_block + entry->n_new_blocks;
    int end = entry->position + entry->n_tokens;
    if (entry->position != known_tokens || end > slots->max_model_len)
        return err_set(err, ERR_PEER, "a step puts tokens %d to %d into slot %d, which holds %d of at most %d", entry->position, end, entry->slot,
                       known_tokens, slots->max_model_len);
    if (entry->first_block != known_blocks || n_blocks > slots->cap_blocks || n_blocks * slots->block_size < end)
        return err_set(err, ERR_PEER, "a step gives slot %d blocks %d to %d for %d tokens; it holds %d blocks of %d tokens", entry->slot,
                       entry->first_block, n_blocks, end, known_blocks, slots->block_size);
    for (int i = 0; i < entry->n_new_blocks; i++)
        if (entry->new_blocks[i] < 0 || entry->new_blocks[i] >= slots->n_blocks)
            return err_set(err, ERR_PEER, "a step names KV block %d of %d", entry->new_blocks[i], slots->n_blocks);
    bool takes_sample = entry->tokens[0] == EXEC_TOKEN_SAMPLED;
    if (takes_sample && (entry->fresh || entry->n_tokens != 1 || slot->sampled_index != entry->position))
        return err_set(err, ERR_PEER, "a step wants slot %d to go on from its own sample at %d; it has none there", entry->slot, entry->position);
    if (entry->fresh) {
        slot->sampling = *entry->sampling;
        slot->sampled_index = -1;
        if (entry->position > 0)
            memcpy(slot->tokens, entry->cached, (size_t)entry->position * sizeof *slot->tokens);
    }
    memcpy(slot->blocks + entry->first_block, entry->new_blocks, (size_t)entry->n_new_blocks * sizeof *slot->blocks);
    slot->n_blocks = n_blocks;
    memcpy(slot->tokens + entry->position, takes_sample ? &slot->sampled : entry->tokens, (size_t)entry->n_tokens * sizeof *slot->tokens);
    slot->n_tokens = end;
    return 0;
}

void exec_slots_keep_sample(struct exec_slots *slots, const struct exec_entry *entry, int32_t token) {
    struct exec_slot *slot = &slots->slots[entry->slot];
    slot->sampled = token;
    slot->sampled_index = entry->position + entry->n_tokens;
}
