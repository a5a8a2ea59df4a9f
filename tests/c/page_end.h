/* Memory that ends where the next byte is out of bounds. */
#ifndef SV_TESTS_PAGE_END_H
#define SV_TESTS_PAGE_END_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Two pages, the second out of bounds. Returns the end of the first. */
static inline uint8_t *page_end(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages + page, page, PROT_NONE) != 0) {
        perror("page_end");
        exit(1);
    }
    return pages + page;
}

#endif
