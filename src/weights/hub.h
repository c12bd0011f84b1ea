/*
 * Finding a model: a path, or a name on a hub ("Qwen/Qwen3-0.6B", optionally "name:file.gguf") that is downloaded
 * file by file into the usual hub cache ($HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub; layout
 * models--ORG--NAME/{blobs,refs,snapshots}). Honours HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, SHOAL_USE_MODELSCOPE.
 * Blocks for as long as a download takes. One thread.
 */
#ifndef WEIGHTS_HUB_H
#define WEIGHTS_HUB_H

#include <limits.h>

#include "base/err.h"

/*
 * model: what the user typed. revision: branch, tag or commit, NULL for "main". download_dir: a cache other than the
 * usual, or NULL. Writes the local folder or file. A name that is neither an existing path nor of the form ORG/NAME
 * is ERR_NOT_FOUND with both readings explained.
 */
int weights_hub_resolve(const char *model, const char *revision, const char *download_dir, char ret_path[PATH_MAX], struct err *err);

#endif
