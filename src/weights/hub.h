/*
 * Finding a model: a path, or a name on a hub that is downloaded file by file into the cache that the hub's own tools
 * use, so that both see the same files. What serving does not need is left out.
 *
 *   ORG/NAME              the whole model; of a repository with GGUF files alone, the one there is
 *   ORG/NAME:FILE.gguf    one GGUF file, with its other parts when it is split
 *   ORG/NAME:Q4_K_M       the one whose name ends so
 *
 * Hugging Face: $HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub, laid out as
 * models--ORG--NAME/{blobs,refs,snapshots}. Honours HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE.
 * ModelScope, with SHOAL_USE_MODELSCOPE=1 or VLLM_USE_MODELSCOPE=1: $MODELSCOPE_CACHE/models, else
 * ~/.cache/modelscope/hub/models, laid out as ORG/NAME. Honours MODELSCOPE_ENDPOINT, MODELSCOPE_API_TOKEN.
 *
 * The hub is asked whether the revision has moved; when it cannot be reached, a model that is whole in the cache is
 * used as it is. One thread; blocks for as long as a download takes. Several processes may resolve the same model.
 */
#ifndef WEIGHTS_HUB_H
#define WEIGHTS_HUB_H

#include <limits.h>

#include "base/err.h"

/*
 * model: what the user typed. revision: branch, tag or commit, NULL for "main". download_dir: a cache other than the
 * usual, or NULL. Writes the local folder or file (a GGUF model, of a split one the first part). A name that is neither
 * an existing path nor of the form ORG/NAME is ERR_NOT_FOUND with both readings explained.
 */
int weights_hub_resolve(const char *model, const char *revision, const char *download_dir, char ret_path[PATH_MAX], struct err *err);
/* The same for the configuration alone: of a model that is not here yet, config.json and what belongs to it come over, and no more. */
int weights_hub_resolve_config(const char *model, const char *revision, const char *download_dir, char ret_path[PATH_MAX], struct err *err);

#endif
