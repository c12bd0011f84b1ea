/*
 * What was found: one line for each check of each node, and how it is told to people (a table) and programs (JSON).
 * Lines come from this process and, over the network, from agents; text from tools and peers is made harmless on its way
 * in (valid UTF-8, no control characters, limited length and number). One thread at a time.
 */
#ifndef VERIFY_FINDINGS_H
#define VERIFY_FINDINGS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/err.h"

/* In rising order of trouble. NOTE: nothing to check here, or not checked; the text says why. */
enum verify_status { VERIFY_OK, VERIFY_NOTE, VERIFY_WARN, VERIFY_FAIL };

enum { VERIFY_ALL = -1 /* a line that concerns all nodes */, VERIFY_MAX_LINES = 8192, VERIFY_CHECK_BYTES = 24, VERIFY_TEXT_BYTES = 600 };

struct verify_finding {
    int node; /* index, or VERIFY_ALL */
    enum verify_status status;
    char check[VERIFY_CHECK_BYTES]; /* "mtu", "npu link", … */
    char text[VERIFY_TEXT_BYTES];   /* what was found */
    char advice[VERIFY_TEXT_BYTES]; /* what to do; "" when nothing */
};

struct verify_findings {
    struct verify_finding *items;
    int n, cap;
    bool is_cut; /* more lines than VERIFY_MAX_LINES or than memory: counts as a failure */
};

/* A zeroed struct is empty. */
void verify_findings_finish(struct verify_findings *findings);
/* advice may be NULL. */
void verify_findings_add(struct verify_findings *findings, int node, enum verify_status status, const char *check, const char *advice,
                         const char *fmt, ...) __attribute__((format(printf, 6, 7)));
enum verify_status verify_findings_worst(const struct verify_findings *findings);
int verify_findings_count(const struct verify_findings *findings, enum verify_status status);

/* "ok", "note", "warn", "FAIL" */
const char *verify_status_name(enum verify_status status);
/* Copies text so that a terminal and JSON can take it: '?' for what is ill-formed or a control character; newlines and tabs become spaces.
 */
void verify_clean_text(const char *text, char *ret_text, size_t size_bytes);

/* New reference: [{"check": …, "status": …, "text": …, "advice": …}, …], with "node" unless is_own. NULL when memory is out. */
json_t *verify_findings_to_json(const struct verify_findings *findings, bool is_own);
/* Appends what an agent sent as its own lines. ERR_PEER when it is no such list. */
int verify_findings_from_json(struct verify_findings *findings, int node, const json_t *list, struct err *err);

/* The table: for each node its name and its lines, then those of all. names: [n_nodes]. worst_only: lines that are warn or FAIL. */
void verify_findings_print(const struct verify_findings *findings, const char *const *names, int n_nodes, bool worst_only, FILE *out);

#endif
