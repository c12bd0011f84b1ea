/* Lines of checks; see findings.h. */
#include "verify/findings.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"

static const char *const status_names[] = {"ok", "note", "warn", "FAIL"};

const char *verify_status_name(enum verify_status status) { return status_names[status]; }

void verify_clean_text(const char *text, char *ret_text, size_t size_bytes) {
    size_t used = 0, left_bytes = strlen(text);
    while (left_bytes > 0) {
        uint32_t cp;
        int n = utf8_decode(text, left_bytes, &cp);
        size_t step = (size_t)(n < 0 ? -n : n);
        bool is_space = cp == '\n' || cp == '\t' || cp == '\r';
        bool is_plain = n > 0 && !is_space && cp >= 0x20 && (cp < 0x7f || cp > 0x9f);
        size_t out_bytes = is_plain ? step : 1;
        if (used + out_bytes >= size_bytes)
            break;
        if (is_plain)
            memcpy(ret_text + used, text, step);
        else
            ret_text[used] = is_space ? ' ' : '?';
        used += out_bytes;
        text += step;
        left_bytes -= step;
    }
    ret_text[used] = '\0';
}

void verify_findings_finish(struct verify_findings *findings) {
    free(findings->items);
    *findings = (struct verify_findings){0};
}

static struct verify_finding *new_item(struct verify_findings *findings) {
    if (findings->n == findings->cap) {
        int cap = findings->cap == 0 ? 64 : 2 * findings->cap;
        struct verify_finding *items =
            findings->n >= VERIFY_MAX_LINES ? NULL : realloc(findings->items, (size_t)cap * sizeof *findings->items);
        if (items == NULL) {
            findings->is_cut = true;
            return NULL;
        }
        findings->items = items;
        findings->cap = cap;
    }
    return &findings->items[findings->n++];
}

void verify_findings_add(struct verify_findings *findings, int node, enum verify_status status, const char *check, const char *advice,
                         const char *fmt, ...) {
    char text[4 * VERIFY_TEXT_BYTES];
    va_list args;
    struct verify_finding *item = new_item(findings);
    if (item == NULL)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    item->node = node;
    item->status = status;
    verify_clean_text(check, item->check, sizeof item->check);
    verify_clean_text(text, item->text, sizeof item->text);
    verify_clean_text(advice == NULL ? "" : advice, item->advice, sizeof item->advice);
}

enum verify_status verify_findings_worst(const struct verify_findings *findings) {
    enum verify_status worst = findings->is_cut ? VERIFY_FAIL : VERIFY_OK;
    for (int i = 0; i < findings->n; i++)
        if (findings->items[i].status > worst)
            worst = findings->items[i].status;
    return worst;
}

int verify_findings_count(const struct verify_findings *findings, enum verify_status status) {
    int n = 0;
    for (int i = 0; i < findings->n; i++)
        n += findings->items[i].status == status;
    return n;
}

json_t *verify_findings_to_json(const struct verify_findings *findings, bool is_own) {
    json_t *list = json_array();
    for (int i = 0; i < findings->n; i++) {
        const struct verify_finding *item = &findings->items[i];
        json_t *json = json_pack("{s:s, s:s, s:s, s:s}", "check", item->check, "status", status_names[item->status], "text", item->text,
                                 "advice", item->advice);
        if (json != NULL && !is_own && item->node != VERIFY_ALL)
            json_object_set_new(json, "node", json_integer(item->node));
        if (list == NULL || json == NULL || json_array_append_new(list, json) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

int verify_findings_from_json(struct verify_findings *findings, int node, const json_t *list, struct err *err) {
    size_t i;
    json_t *json;
    if (!json_is_array(list))
        return err_set(err, ERR_PEER, "its lines are not a list");
    json_array_foreach(list, i, json) {
        const char *check, *status, *text, *advice;
        if (json_get_str(json, "check", "", &check, err) != 0 || json_get_str(json, "status", "", &status, err) != 0 ||
            json_get_str(json, "text", "", &text, err) != 0 || json_get_str(json, "advice", "", &advice, err) != 0)
            return -1;
        int found = 0;
        while (found <= VERIFY_FAIL && strcmp(status, status_names[found]) != 0)
            found++;
        if (found > VERIFY_FAIL)
            return err_set(err, ERR_PEER, "a line has the status '%.20s'", status);
        verify_findings_add(findings, node, (enum verify_status)found, check, advice, "%s", text);
    }
    return 0;
}

static void print_lines(const struct verify_findings *findings, int node, const char *title, bool worst_only, FILE *out) {
    bool has_title = false;
    for (int i = 0; i < findings->n; i++) {
        const struct verify_finding *item = &findings->items[i];
        if (item->node != node || (worst_only && item->status < VERIFY_WARN))
            continue;
        if (!has_title)
            fprintf(out, "%s\n", title);
        has_title = true;
        fprintf(out, "  %-4s  %-14s  %s\n", item->status == VERIFY_NOTE ? "-" : status_names[item->status], item->check, item->text);
        if (item->advice[0] != '\0')
            fprintf(out, "        %-14s  → %s\n", "", item->advice);
    }
}

void verify_findings_print(const struct verify_findings *findings, const char *const *names, int n_nodes, bool worst_only, FILE *out) {
    for (int i = 0; i < n_nodes; i++)
        print_lines(findings, i, names[i], worst_only, out);
    print_lines(findings, VERIFY_ALL, n_nodes > 1 ? "all nodes" : "in all", worst_only, out);
    if (findings->is_cut)
        fprintf(out, "  FAIL  there were more lines than can be kept (%d)\n", VERIFY_MAX_LINES);
}
