/* chat.c: the boundary of the template interpreter; see chat.h and jinja.h. */
#include "jinja.h"

int chat_compile(chat **out, const char *source, size_t n, err *e)
{
    struct lexemes tokens = {0};
    struct parser p = {.e = e};
    chat *c = mem_alloc(sizeof *c);
    int rc = -1;
    c->mem = p.mem = arena_new();
    if (jinja_lex(c->mem, source, n, &tokens, e)) goto out;
    p.t = tokens.p;
    if (jinja_parse_template(&p, &c->body)) goto out;
    if (jinja_check(c, e)) goto out;
    *out = c;
    c = NULL;
    rc = 0;
out:
    chat_free(c);
    return rc;
}

void chat_free(chat *c)
{
    if (!c) return;
    arena_free(c->mem);
    free(c);
}

static struct val chat_messages(struct jinja *j, const struct chat_msg *msgs, int n)
{
    struct val list = jinja_list(j, VAL_LIST), role = jinja_cstr(j, "role"), content = jinja_cstr(j, "content");
    int i;
    for (i = 0; i < n && !j->failed; i++) {
        struct val m = jinja_dict(j);
        jinja_dict_set(j, m.d, role, jinja_cstr(j, msgs[i].role));
        jinja_dict_set(j, m.d, content, jinja_cstr(j, msgs[i].content));
        jinja_push(j, list.l, m);
    }
    return list;
}

int chat_render(const chat *c, const struct chat_env *env, const struct chat_msg *msgs, int n, struct buf *out, err *e)
{
    struct buf text = {0};
    struct jinja j = {.env = env, .steps = JINJA_MAX_STEPS, .line = 1, .out = &text, .e = e};
    j.mem = arena_new();
    j.messages = chat_messages(&j, msgs, n);
    if (!j.failed) jinja_run(&j, c);
    if (!j.failed) buf_add(out, text.p, text.n);
    buf_free(&text);
    arena_free(j.mem);
    return j.failed ? -1 : 0;
}
