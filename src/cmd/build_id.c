/* Version and ELF build id; see build_id.h. The id is a note that the linker writes over the whole content. */
#include "cmd/build_id.h"

#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"

enum { SHOWN_BYTES = 6 };

struct search {
    const unsigned char *id;
    size_t id_bytes;
};

static int find_note(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    struct search *search = arg;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type != PT_NOTE)
            continue;
        const char *at = (const char *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
        const char *end = at + info->dlpi_phdr[i].p_memsz;
        while (end - at >= (ptrdiff_t)sizeof(ElfW(Nhdr))) {
            const ElfW(Nhdr) *note = (const void *)at;
            const char *name = at + sizeof *note;
            const char *desc = name + ((note->n_namesz + 3u) & ~3u);
            if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 && memcmp(name, "GNU", 4) == 0) {
                search->id = (const unsigned char *)desc;
                search->id_bytes = note->n_descsz;
                return 1;
            }
            at = desc + ((note->n_descsz + 3u) & ~3u);
        }
    }
    return 1; /* the first object is the executable: look no further */
}

const char *cmd_build_id(void) {
    static char text[64];
    if (text[0] == '\0') {
        struct search search = {0};
        char hex[2 * SHOWN_BYTES + 1] = "unknown";
        dl_iterate_phdr(find_note, &search);
        if (search.id_bytes >= SHOWN_BYTES)
            hash_hex(search.id, SHOWN_BYTES, hex);
        snprintf(text, sizeof text, "%s+%s", SHOAL_VERSION, hex);
    }
    return text;
}
