/* state_json.c: keys of a config.json, checked; see state_in.h. null means what a missing key means. */
#include "state_in.h"

const json_t *state_key(const struct state_json *j, const char *key)
{
    const json_t *v = json_object_get(j->root, key);
    return json_is_null(v) ? NULL : v;
}

int state_int(const struct state_json *j, const char *key, int max, int missing, int *out)
{
    const json_t *v = state_key(j, key);
    *out = missing;
    if (!v) return missing < 0 ? err_set(j->e, ERR_ENV, "%s is missing", key) : 0;
    if (!json_is_integer(v)) return err_set(j->e, ERR_ENV, "%s is not an integer", key);
    if (json_integer_value(v) < 1 || json_integer_value(v) > max)
        return err_set(j->e, ERR_ENV, "%s is %lld, expected 1 to %d", key, (long long)json_integer_value(v), max);
    *out = (int)json_integer_value(v);
    return 0;
}

int state_dim(const struct state_json *j, const char *key, int missing, int *out)
{
    return state_int(j, key, STATE_DIM_MAX, missing, out);
}

int state_bool(const struct state_json *j, const char *key, bool missing, bool *out)
{
    const json_t *v = state_key(j, key);
    *out = v ? json_is_true(v) : missing;
    return v && !json_is_boolean(v) ? err_set(j->e, ERR_ENV, "%s is neither true nor false", key) : 0;
}

int state_types(const struct state_json *j, const char *key, int n, const json_t **out)
{
    const json_t *v = state_key(j, key);
    size_t i;
    *out = v;
    if (!json_is_array(v)) return err_set(j->e, ERR_ENV, v ? "%s is not a list" : "%s is missing", key);
    if (json_array_size(v) != (size_t)n)
        return err_set(j->e, ERR_ENV, "%s has %zu entries for %d layers", key, json_array_size(v), n);
    for (i = 0; i < (size_t)n; i++)
        if (!json_is_string(json_array_get(v, i)))
            return err_set(j->e, ERR_ENV, "%s: the entry of layer %zu is not a string", key, i);
    return 0;
}

int state_refuse(const struct state_json *j, const char *key)
{
    const json_t *v = state_key(j, key);
    bool nothing = !v || json_is_false(v) || (json_is_integer(v) && json_integer_value(v) == 0) ||
                   (json_is_array(v) && json_array_size(v) == 0);
    return nothing ? 0
                   : err_set(j->e, ERR_ENV, "%s changes the state in a way that is not counted for model_type '%s'", key,
                             j->s->arch);
}
