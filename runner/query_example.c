/* query_example.c: the questions that ship with the program; each runs on any results database. */
#include "query.h"

static const struct example {
    const char *title, *sql;
} examples[] = {
    {"the answers side by side", "SELECT experiment, prompt, condition, label, text, stop\n"
                                 "FROM v_result ORDER BY experiment, spec_job_id;\n"},
    {"what the metrics say of each condition",
     "SELECT experiment, condition, metric, count(value) AS n, avg(value) AS mean, min(value) AS least, max(value) AS most,\n"
     "       sum(flag IS NOT NULL) AS undefined\n"
     "FROM v_metric GROUP BY experiment, condition, metric ORDER BY experiment, min(spec_job_id), metric;\n"},
    {"how long each job follows its baseline", "SELECT experiment, label, first_diff_step\n"
                                               "FROM v_divergence ORDER BY first_diff_step, spec_job_id;\n"},
    {"metrics along an axis, such as the layer",
     "SELECT m.experiment, m.condition, m.prompt, f.name AS axis, f.value, m.metric, m.value AS result\n"
     "FROM v_metric m JOIN factor f USING (spec_job_id)\n"
     "ORDER BY m.experiment, m.condition, m.prompt, m.metric, f.name, coalesce(f.num, 0), f.value;\n"},
    {"what changed since the run before: the first other token, and how close the race was",
     "WITH pair AS (\n"
     "  SELECT b.job_id, b.id AS new, (SELECT max(a.id) FROM attempt a\n"
     "    WHERE a.job_id=b.job_id AND a.status='done' AND a.run_id<b.run_id) AS old\n"
     "  FROM attempt b WHERE b.id=(SELECT max(x.id) FROM attempt x WHERE x.job_id=b.job_id AND x.status='done')),\n"
     "diff AS (\n"
     "  SELECT p.job_id, p.old, p.new, min(s.step) AS step FROM pair p JOIN step s ON s.attempt_id IN (p.old, p.new)\n"
     "  WHERE p.old IS NOT NULL\n"
     "    AND (SELECT token_id FROM step WHERE attempt_id=p.old AND step=s.step) IS NOT\n"
     "        (SELECT token_id FROM step WHERE attempt_id=p.new AND step=s.step)\n"
     "  GROUP BY p.job_id)\n"
     "SELECT sj.label, d.step, token_text(p.tokenizer_id, o.token_id) AS was, token_text(p.tokenizer_id, n.token_id) AS now,\n"
     "       o.margin\n"
     "FROM diff d JOIN spec_job sj ON sj.job_id=d.job_id JOIN v_spec v USING (spec_id)\n"
     "JOIN job j ON j.id=d.job_id JOIN prompt p ON p.id=j.prompt_id\n"
     "LEFT JOIN step o ON o.attempt_id=d.old AND o.step=d.step LEFT JOIN step n ON n.attempt_id=d.new AND n.step=d.step\n"
     "ORDER BY sj.id;\n"},
    {"what failed and why", "SELECT a.error_code, a.error_message, count(*) AS n, min(sj.label) AS example\n"
                            "FROM attempt a JOIN spec_job sj USING (job_id) JOIN v_spec USING (spec_id)\n"
                            "WHERE a.status='failed' GROUP BY a.error_code, a.error_message ORDER BY n DESC;\n"},
    {"where the disk went", "SELECT experiment, chunks, blobs, round(logical_bytes/1048576.0, 1) AS logical_mib,\n"
                            "       round(stored_bytes/1048576.0, 1) AS stored_mib\n"
                            "FROM v_storage ORDER BY stored_bytes DESC;\n"},
    {"can I cite these numbers: model, code, machine and run of each answer",
     "SELECT r.experiment, r.label, lower(hex(m.sha256)) AS model_sha256, v.kvrun_version, v.git_commit, v.git_dirty,\n"
     "       v.numerics, v.isa, v.cpu, v.gpu_name, v.host, run.uuid AS run, r.ended\n"
     "FROM v_result r JOIN attempt a ON a.id=r.attempt_id JOIN run ON run.id=a.run_id\n"
     "JOIN environment v ON v.id=run.environment_id JOIN job j ON j.id=a.job_id JOIN model m ON m.id=j.model_id\n"
     "ORDER BY r.spec_job_id;\n"},
    {"jobs without an answer", "SELECT v.experiment, sj.label FROM v_spec v JOIN spec_job sj USING (spec_id)\n"
                               "LEFT JOIN v_latest l ON l.spec_job_id=sj.id WHERE l.attempt_id IS NULL ORDER BY sj.id;\n"},
    {"how the values of slots became tokens",
     "SELECT t.experiment, t.prompt, s.name AS slot, s.nth, t.pos, t.token_id, t.token, s.edges\n"
     "FROM prompt_span s JOIN v_prompt_token t USING (spec_prompt_id)\n"
     "WHERE t.pos >= s.tok_start AND t.pos < s.tok_end ORDER BY t.experiment, t.spec_prompt_id, s.byte_start, t.pos;\n"},
    {"the tokens that were nearly others", "SELECT experiment, label, step, token_id, token, exp(logprob) AS p, margin\n"
                                           "FROM v_token ORDER BY margin, label, step LIMIT 20;\n"},
    {"how far edited caches are from their baseline's, layer by layer",
     "SELECT e.experiment, e.label, e.layer, e.tensor,\n"
     "       sqrt(sum(pow(vec_l2(kv_decode(e.blob_id), kv_decode(b.blob_id)), 2))) AS distance\n"
     "FROM v_kv e JOIN spec_job sj ON sj.id=e.spec_job_id JOIN spec_job base ON base.id=sj.baseline_id\n"
     "JOIN v_kv b ON b.experiment=e.experiment AND b.label=base.label AND b.moment='prefill' AND b.layer=e.layer\n"
     "            AND b.tensor=e.tensor AND b.tok_start=e.tok_start AND b.n_tok=e.n_tok\n"
     "WHERE e.moment='edited' GROUP BY sj.id, e.layer, e.tensor ORDER BY sj.id, e.layer, e.tensor;\n"},
    {"how far recorded activations are from their baseline's, layer by layer",
     "SELECT e.experiment, e.label, e.tensor, e.layer,\n"
     "       sqrt(sum(pow(vec_l2(kv_decode(e.blob_id), kv_decode(b.blob_id)), 2))) AS distance\n"
     "FROM v_kv e JOIN spec_job sj ON sj.id=e.spec_job_id JOIN spec_job base ON base.id=sj.baseline_id AND base.id<>sj.id\n"
     "JOIN v_kv b ON b.experiment=e.experiment AND b.label=base.label AND b.moment='pass' AND b.layer=e.layer\n"
     "            AND b.tensor=e.tensor AND b.tok_start=e.tok_start AND b.n_tok=e.n_tok\n"
     "WHERE e.moment='pass' GROUP BY sj.id, e.tensor, e.layer ORDER BY sj.id, e.tensor, e.layer;\n"},
    {"the map of a recovery: a row per value of the first axis, its values along the second",
     "WITH axis AS (\n"
     "  SELECT spec_job_id, name, value, num, row_number() OVER (PARTITION BY spec_job_id ORDER BY name) AS nth FROM factor),\n"
     "cell AS (\n"
     "  SELECT m.experiment, m.prompt, m.condition, m.metric, a.name||'='||a.value AS row, a.num,\n"
     "         coalesce(b.value||': ', '')||coalesce(round(m.value, 3), m.flag) AS text\n"
     "  FROM v_metric m JOIN v_spec s USING (experiment) JOIN metric_def d ON d.spec_id=s.spec_id AND d.name=m.metric\n"
     "  JOIN axis a ON a.spec_job_id=m.spec_job_id AND a.nth=1 LEFT JOIN axis b ON b.spec_job_id=m.spec_job_id AND b.nth=2\n"
     "  WHERE json_extract(d.definition_json, '$.metric')='recovery' ORDER BY a.num, b.num)\n"
     "SELECT experiment, prompt, condition, metric, row, group_concat(text, '  ') AS values_along_second_axis\n"
     "FROM cell GROUP BY experiment, prompt, condition, metric, row ORDER BY experiment, condition, prompt, metric, min(num), "
     "row;\n"},
    {"may the experiment be trusted: the controls' verdicts, those that fail first",
     "SELECT experiment, verdict, label, kind, of, against, detail\n"
     "FROM v_control ORDER BY verdict<>'fail', verdict<>'missing', experiment, spec_job_id;\n"},
};

const char *query_example(int n, const char **title)
{
    if (n < 1 || n > (int)(sizeof examples / sizeof *examples)) return NULL;
    if (title) *title = examples[n - 1].title;
    return examples[n - 1].sql;
}
