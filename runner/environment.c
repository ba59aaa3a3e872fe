/* environment.c: asks the kernel, the libraries and the build what they are. */
#include "environment.h"

#include "build_info.h"

#include <jansson.h>
#include <openssl/crypto.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <yaml.h>
#include <zstd.h>

void environment_cpu(char *out, size_t n)
{
    char line[512], *colon;
    FILE *f = fopen("/proc/cpuinfo", "r");
    snprintf(out, n, "unknown");
    if (!f) return;
    while (fgets(line, sizeof line, f))
        if (strncmp(line, "model name", 10) == 0 && (colon = strchr(line, ':'))) {
            colon[strcspn(colon, "\n")] = 0;
            snprintf(out, n, "%s", colon + 2);
            break;
        }
    fclose(f);
}

static void libs(char *out, size_t n)
{
    snprintf(out, n, "{\"jansson\":\"%s\",\"libcrypto\":\"%s\",\"libyaml\":\"%s\",\"libzstd\":\"%s\",\"sqlite\":\"%s\"}",
             jansson_version_str(), OpenSSL_version(OPENSSL_VERSION_STRING), yaml_get_version_string(), ZSTD_versionString(),
             sqlite3_libversion());
}

const struct environment *environment_get(const engine *en)
{
    static struct environment env;
    static struct utsname name;
    static char cpu[256], os[sizeof name], library[512];
    uname(&name);
    environment_cpu(cpu, sizeof cpu);
    libs(library, sizeof library);
    snprintf(os, sizeof os, "%s %s %s", name.sysname, name.release, name.machine);
    env.host = name.nodename;
    env.os = os;
    env.cpu = cpu;
    env.ram_bytes = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    env.gpu_name = engine_info(en)->gpu_name;
    env.isa = engine_info(en)->isa;
    env.threads = engine_info(en)->threads;
    env.version = BUILD_VERSION;
    env.git_commit = BUILD_GIT_COMMIT;
    env.git_dirty = BUILD_GIT_DIRTY;
    env.compiler = BUILD_COMPILER;
    env.build_flags = BUILD_FLAGS;
    env.libs_json = library;
    return &env;
}

void environment_version(bool json, struct buf *out)
{
    char library[512];
    libs(library, sizeof library);
    if (json)
        buf_printf(out,
                   "{\"version\":\"%s\",\"git_commit\":\"%s\",\"git_dirty\":%d,\"compiler\":\"%s\",\"build_flags\":\"%s\","
                   "\"libs\":%s}\n",
                   BUILD_VERSION, BUILD_GIT_COMMIT, BUILD_GIT_DIRTY, BUILD_COMPILER, BUILD_FLAGS, library);
    else
        buf_printf(out, "kvrun %s\ncommit %s%s\nbuilt by %s, %s\nSQLite %s, zstd %s, libyaml %s\n", BUILD_VERSION,
                   BUILD_GIT_COMMIT, BUILD_GIT_DIRTY ? " (with changes)" : "", BUILD_COMPILER, BUILD_FLAGS,
                   sqlite3_libversion(), ZSTD_versionString(), yaml_get_version_string());
}

const char *environment_build(void)
{
    static char text[64];
    snprintf(text, sizeof text, "%s (%.7s%s)", BUILD_VERSION, BUILD_GIT_COMMIT, BUILD_GIT_DIRTY ? ", with changes" : "");
    return text;
}
