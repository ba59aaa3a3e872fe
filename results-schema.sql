-- results-schema.sql: what kvrun keeps of an experiment. Schema version 2.
--
-- A job is a question: token ids, a model, edits, decode settings. An attempt is one answer to it. The same job is answered
-- again by later runs and shared by every experiment that asks the same, so a label of an experiment is a row of its own
-- (spec_job). Ask the views at the end: tables may change, views keep their columns.
--
-- Times are milliseconds since 1970 (UTC) in *_ms. Hashes are BLOBs. What is NULL was not there, never "zero".
-- The program makes a new file with page_size 16384, auto_vacuum INCREMENTAL and journal_mode WAL (TRUNCATE on a network file
-- system) before it runs this text in one transaction; every connection sets foreign_keys.
PRAGMA application_id = 1802924593; -- 0x6B767231 'kvr1'
PRAGMA user_version = 2;

CREATE TABLE meta (                 -- db_uuid, created_ms, created_by
  key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

---- who, where, with what --------------------------------------------------
CREATE TABLE experiment (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE CHECK (name <> ''),
  title TEXT, created_ms INTEGER NOT NULL) STRICT;
-- identity_json: also "set", the values that -s put over the source; without it the source was taken as it is.
CREATE TABLE spec (                 -- one wording of an experiment and the jobs it became; never updated
  id INTEGER PRIMARY KEY, experiment_id INTEGER NOT NULL REFERENCES experiment,
  sha256 BLOB NOT NULL UNIQUE CHECK (length(sha256)=32),             -- of identity_json
  identity_json TEXT NOT NULL,     -- hashes of source, model and of all labels with keys
  source_yaml TEXT NOT NULL, source_path TEXT NOT NULL,              -- verbatim
  created_ms INTEGER NOT NULL) STRICT;
CREATE INDEX spec_experiment ON spec(experiment_id);
CREATE TABLE model (
  id INTEGER PRIMARY KEY, sha256 BLOB NOT NULL UNIQUE CHECK (length(sha256)=32), -- of the file
  name TEXT NOT NULL, arch TEXT NOT NULL, format TEXT NOT NULL, path_seen TEXT NOT NULL,
  file_bytes INTEGER NOT NULL, weight_dtype TEXT NOT NULL,
  n_layer INTEGER NOT NULL, n_head INTEGER NOT NULL, n_kv_head INTEGER NOT NULL, head_dim INTEGER NOT NULL,
  n_embd INTEGER NOT NULL, n_vocab INTEGER NOT NULL, n_ctx_train INTEGER NOT NULL, rope_base REAL NOT NULL) STRICT;
CREATE TABLE tokenizer (            -- kind 'none': the model has none, prompts are token ids
  id INTEGER PRIMARY KEY, sha256 BLOB NOT NULL UNIQUE CHECK (length(sha256)=32),
  kind TEXT NOT NULL, bos INTEGER, eos INTEGER) STRICT;
CREATE TABLE token (                -- only ids that occur; makes every token query readable
  tokenizer_id INTEGER NOT NULL REFERENCES tokenizer, token_id INTEGER NOT NULL,
  bytes BLOB NOT NULL, display TEXT NOT NULL,                        -- ' San', '\n', '\xe2' (half a character)
  PRIMARY KEY (tokenizer_id, token_id)) STRICT, WITHOUT ROWID;
CREATE TABLE environment (          -- what can change a bit, or must be told when a number is cited
  id INTEGER PRIMARY KEY, sha256 BLOB NOT NULL UNIQUE CHECK (length(sha256)=32), -- of the columns below
  host TEXT NOT NULL, os TEXT NOT NULL, cpu TEXT NOT NULL, ram_bytes INTEGER NOT NULL, gpu_name TEXT,
  isa TEXT NOT NULL, threads INTEGER NOT NULL,
  kvrun_version TEXT NOT NULL, git_commit TEXT NOT NULL, git_dirty INTEGER NOT NULL CHECK (git_dirty IN (0,1)),
  compiler TEXT NOT NULL, build_flags TEXT NOT NULL, libs_json TEXT NOT NULL,
  numerics TEXT NOT NULL) STRICT;   -- answers of equal numerics are equal to the bit: 'n1:cpu:kv-f32'
CREATE TABLE run (                  -- one process; 'lost': it died without saying so
  id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE,                 -- UUIDv7
  spec_id INTEGER NOT NULL REFERENCES spec, environment_id INTEGER NOT NULL REFERENCES environment,
  argv_json TEXT NOT NULL, cwd TEXT NOT NULL, pid INTEGER NOT NULL,
  started_ms INTEGER NOT NULL, ended_ms INTEGER,
  status TEXT NOT NULL CHECK (status IN ('running','done','failed','interrupted','lost')),
  exit_code INTEGER) STRICT;
CREATE INDEX run_spec ON run(spec_id);
CREATE INDEX run_running ON run(status) WHERE status='running';

---- the question -----------------------------------------------------------
CREATE TABLE prompt (
  id INTEGER PRIMARY KEY,
  sha256 BLOB NOT NULL UNIQUE CHECK (length(sha256)=32),             -- of tokenizer hash, token ids and text
  tokenizer_id INTEGER NOT NULL REFERENCES tokenizer,
  text TEXT NOT NULL, n_tokens INTEGER NOT NULL) STRICT;             -- text as rendered; '' when given as token ids
CREATE TABLE prompt_token (         -- the bytes of the text each token stands for, half open
  prompt_id INTEGER NOT NULL REFERENCES prompt ON DELETE CASCADE, pos INTEGER NOT NULL,
  token_id INTEGER NOT NULL, byte_start INTEGER NOT NULL, byte_end INTEGER NOT NULL,
  PRIMARY KEY (prompt_id, pos)) STRICT, WITHOUT ROWID;
CREATE TABLE spec_prompt (          -- what a prompt is called in an experiment
  id INTEGER PRIMARY KEY, spec_id INTEGER NOT NULL REFERENCES spec ON DELETE CASCADE,
  name TEXT NOT NULL, prompt_id INTEGER NOT NULL REFERENCES prompt,
  variant TEXT NOT NULL DEFAULT '',   -- the values of the axes it depends on: "ctx=1024/depth=50"
  UNIQUE (spec_id, name, variant)) STRICT;
CREATE TABLE prompt_span (          -- where the value of a slot ended up; half open
  spec_prompt_id INTEGER NOT NULL REFERENCES spec_prompt ON DELETE CASCADE,
  name TEXT NOT NULL, nth INTEGER NOT NULL,
  byte_start INTEGER NOT NULL, byte_end INTEGER NOT NULL,
  tok_start INTEGER NOT NULL, tok_end INTEGER NOT NULL,
  edges TEXT NOT NULL CHECK (edges IN ('exact','space','partial','include','exclude')), -- 'space': the first token also
                                        -- holds a space before; 'include', 'exclude': what was decided of tokens partly inside
  PRIMARY KEY (spec_prompt_id, name, nth)) STRICT, WITHOUT ROWID;
CREATE TABLE job (
  id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE CHECK (length(key)=32), -- SHA-256 of key_json
  model_id INTEGER NOT NULL REFERENCES model, prompt_id INTEGER NOT NULL REFERENCES prompt,
  decode_json TEXT NOT NULL,
  key_json TEXT NOT NULL) STRICT;       -- all that can change the answer, the very bytes hashed
CREATE INDEX job_prompt ON job(prompt_id);
CREATE TABLE intervention (         -- an edit of the cache or of the pass, resolved: no names, no negative indices left
  job_id INTEGER NOT NULL REFERENCES job ON DELETE CASCADE, ord INTEGER NOT NULL,
  op TEXT NOT NULL CHECK (op IN ('noop','zero','scale','transplant','add','mask','mean','noise','swap','quantise','evict',
                                 'knockout')),
  tensor TEXT NOT NULL CHECK (tensor IN ('k','v','kv','k_pre','resid','embed','attn_out','mlp_out','head_out')),
  timing TEXT NOT NULL CHECK (timing IN ('finished_cache','prefill','steps')), first_step INTEGER, last_step INTEGER,
  layers_json TEXT NOT NULL, heads_json TEXT NOT NULL, positions_json TEXT NOT NULL, -- embed: layer -1. Heads: query heads
                                                                     -- for head_out, else kv heads; [] where there are none
  donor_prompt_id INTEGER REFERENCES prompt, donor_positions_json TEXT, -- where values come from: that prompt, unedited
  rerotate INTEGER NOT NULL CHECK (rerotate IN (0,1)),               -- keys turned to the position they were put at
  amount REAL,                                                       -- scale: times this; add: this times the vector
  vector_sha256 BLOB CHECK (length(vector_sha256)=32),               -- add: of a file's f32 numbers; NULL: donor minus this:
  minus_prompt_id INTEGER REFERENCES prompt, minus_positions_json TEXT,
  donor_job_id INTEGER REFERENCES job,                               -- the donor is that job's edited cache or pass
  params_json TEXT,                                                  -- what only this op has: sigma, seed, bits, policy, queries
  PRIMARY KEY (job_id, ord)) STRICT, WITHOUT ROWID;
CREATE TABLE spec_job (             -- where a job sits in an experiment
  id INTEGER PRIMARY KEY, spec_id INTEGER NOT NULL REFERENCES spec ON DELETE CASCADE,
  job_id INTEGER NOT NULL REFERENCES job, ordinal INTEGER NOT NULL,
  spec_prompt_id INTEGER NOT NULL REFERENCES spec_prompt, condition TEXT NOT NULL, label TEXT NOT NULL,
  baseline_id INTEGER REFERENCES spec_job DEFERRABLE INITIALLY DEFERRED, -- the prompt's job without edits, maybe itself
  UNIQUE (spec_id, ordinal), UNIQUE (spec_id, label)) STRICT;
CREATE INDEX spec_job_job ON spec_job(job_id);
CREATE INDEX spec_job_label ON spec_job(label);
CREATE TABLE factor (               -- values of the axes, one row each; num when the value is a number
  spec_job_id INTEGER NOT NULL REFERENCES spec_job ON DELETE CASCADE,
  name TEXT NOT NULL, value TEXT NOT NULL, num REAL,
  PRIMARY KEY (spec_job_id, name)) STRICT, WITHOUT ROWID;

---- the answer -------------------------------------------------------------
CREATE TABLE attempt (
  id INTEGER PRIMARY KEY, job_id INTEGER NOT NULL REFERENCES job,
  run_id INTEGER NOT NULL REFERENCES run, numerics TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('done','failed')),
  started_ms INTEGER NOT NULL, ended_ms INTEGER NOT NULL,
  error_code INTEGER, error_message TEXT,                            -- the code is the program's exit code for it
  CHECK ((status='failed') = (error_code IS NOT NULL))) STRICT;
CREATE UNIQUE INDEX attempt_done ON attempt(job_id, run_id) WHERE status='done';
CREATE INDEX attempt_hit ON attempt(job_id, status);
CREATE INDEX attempt_run ON attempt(run_id, status);
CREATE TABLE generation (
  attempt_id INTEGER PRIMARY KEY REFERENCES attempt ON DELETE CASCADE,
  text TEXT NOT NULL, text_lossy INTEGER NOT NULL CHECK (text_lossy IN (0,1)), -- 1: bytes that are not UTF-8 were replaced
  n_prompt INTEGER NOT NULL, n_gen INTEGER NOT NULL,
  stop TEXT NOT NULL CHECK (stop IN ('length','eos','context')),
  tokens_sha256 BLOB NOT NULL CHECK (length(tokens_sha256)=32),      -- of the new ids, 4 bytes each, little endian
  prefill_us INTEGER NOT NULL, decode_us INTEGER NOT NULL) STRICT;   -- this job's share of what it shared
CREATE TABLE step (                 -- one new token; margin: largest minus second largest logit
  attempt_id INTEGER NOT NULL REFERENCES attempt ON DELETE CASCADE, step INTEGER NOT NULL,
  token_id INTEGER NOT NULL, logprob REAL, margin REAL,
  PRIMARY KEY (attempt_id, step)) STRICT, WITHOUT ROWID;
CREATE TABLE metric_def (           -- a metric as one spec defines it
  id INTEGER PRIMARY KEY, spec_id INTEGER NOT NULL REFERENCES spec ON DELETE CASCADE,
  name TEXT NOT NULL, definition_json TEXT NOT NULL,
  UNIQUE (spec_id, name)) STRICT;
CREATE TABLE metric (               -- computed from attempt_id; NaN would silently become NULL, hence flag
  metric_id INTEGER NOT NULL REFERENCES metric_def ON DELETE CASCADE,
  spec_job_id INTEGER NOT NULL REFERENCES spec_job ON DELETE CASCADE,
  attempt_id INTEGER NOT NULL REFERENCES attempt ON DELETE CASCADE,
  against_id INTEGER REFERENCES attempt ON DELETE CASCADE,           -- the answer it is held against, where there is one
  value REAL, flag TEXT CHECK (flag IN ('undefined')),
  CHECK ((value IS NULL) = (flag IS NOT NULL)),
  PRIMARY KEY (metric_id, spec_job_id)) STRICT, WITHOUT ROWID;
CREATE TABLE metric_part (          -- a metric's values per layer, head, position, tensor or step; NULL: not split by it
  metric_id INTEGER NOT NULL REFERENCES metric_def ON DELETE CASCADE,
  spec_job_id INTEGER NOT NULL REFERENCES spec_job ON DELETE CASCADE,
  attempt_id INTEGER NOT NULL REFERENCES attempt ON DELETE CASCADE,
  tensor TEXT, layer INTEGER, head INTEGER, pos INTEGER, step INTEGER,
  value REAL, flag TEXT CHECK (flag IN ('undefined')),
  CHECK ((value IS NULL) = (flag IS NOT NULL))) STRICT;
CREATE INDEX metric_part_of ON metric_part(metric_id, spec_job_id);
CREATE INDEX metric_part_attempt ON metric_part(attempt_id);
CREATE TABLE answer_token (         -- what the logits of a new token say of one that a metric asks for; rank 1: the largest logit.
                                    -- step 0: the logits behind the prompt
  attempt_id INTEGER NOT NULL REFERENCES attempt ON DELETE CASCADE, step INTEGER NOT NULL, token_id INTEGER NOT NULL,
  logit REAL NOT NULL, logprob REAL NOT NULL, rank INTEGER NOT NULL,
  PRIMARY KEY (attempt_id, step, token_id)) STRICT, WITHOUT ROWID;
CREATE TABLE control (              -- whether a control holds; one that does not: the experiment is not to be trusted
  spec_job_id INTEGER PRIMARY KEY REFERENCES spec_job ON DELETE CASCADE,
  kind TEXT NOT NULL,                                                -- 'noop', 'self_transplant', 'absent', 'non_needle'
  of_id INTEGER REFERENCES spec_job ON DELETE CASCADE,               -- the job of a condition; NULL: all edits of the prompt
  against_id INTEGER REFERENCES spec_job ON DELETE CASCADE,          -- what it is held against
  verdict TEXT NOT NULL CHECK (verdict IN ('pass','fail','shown','missing')),
  detail TEXT NOT NULL) STRICT;                                      -- 'bit-equal to city_sf/baseline', 'step 3: token 12, not 7'
CREATE INDEX metric_job ON metric(spec_job_id);
CREATE INDEX metric_attempt ON metric(attempt_id);
CREATE INDEX metric_against ON metric(against_id) WHERE against_id IS NOT NULL;

---- KV caches and activations ----------------------------------------------
CREATE TABLE blob (                 -- content addressed: equal chunks are stored once, whoever they belong to
  id INTEGER PRIMARY KEY, xxh128 BLOB NOT NULL CHECK (length(xxh128)=16), -- XXH3-128 of the raw bytes, big endian
  raw_bytes INTEGER NOT NULL, dtype TEXT NOT NULL CHECK (dtype IN ('f32','f16','bf16')),
  stored_bytes INTEGER NOT NULL,
  codec TEXT NOT NULL CHECK (codec IN ('exph','sib2','same','stored')),
  parent_id INTEGER REFERENCES blob,  -- the chunk a sib2 chunk is a difference from
  created_ms INTEGER NOT NULL, UNIQUE (xxh128, raw_bytes, dtype)) STRICT;
CREATE TABLE blob_data (            -- apart from blob, so that questions about sizes never read pages of data
  blob_id INTEGER PRIMARY KEY REFERENCES blob ON DELETE CASCADE, data BLOB NOT NULL) STRICT;
CREATE UNIQUE INDEX blob_data_count ON blob_data(blob_id); -- lets count(*) of database browsers avoid them, too
CREATE TABLE kv_capture (           -- a cache as it was at a moment: tokens tok_start..tok_end-1
  id INTEGER PRIMARY KEY, attempt_id INTEGER NOT NULL REFERENCES attempt ON DELETE CASCADE,
  moment TEXT NOT NULL CHECK (moment IN ('prefill','edited','end','pass')), -- 'prefill': all but the last prompt token;
                                    -- 'edited': after the edits; 'end': all fed; 'pass': activations while the prompt was fed
  dtype TEXT NOT NULL CHECK (dtype IN ('f32','f16','bf16')),
  k_space TEXT CHECK (k_space IN ('k_pre','k_post')),                -- keys before or after rotary embedding; NULL: 'pass'
  tok_start INTEGER NOT NULL, tok_end INTEGER NOT NULL, block_tokens INTEGER NOT NULL,
  complete INTEGER NOT NULL CHECK (complete IN (0,1)),               -- 1: no chunk is missing
  CHECK ((k_space IS NULL) = (moment='pass')),
  UNIQUE (attempt_id, moment)) STRICT;
CREATE TABLE kv_chunk (             -- raw bytes, little endian: (n_kv_head, n_tok, head_dim) of k and v; activations f32
                                    -- (n_tok, width), attn: width = n_head * prompt tokens. embed: layer -1; logits: layer 0
  capture_id INTEGER NOT NULL REFERENCES kv_capture ON DELETE CASCADE,
  layer INTEGER NOT NULL,
  tensor TEXT NOT NULL CHECK (tensor IN ('k','v','k_pre','resid','embed','attn_out','mlp_out','head_out','attn','logits')),
  tok_start INTEGER NOT NULL, n_tok INTEGER NOT NULL, blob_id INTEGER NOT NULL REFERENCES blob,
  PRIMARY KEY (capture_id, layer, tensor, tok_start)) STRICT, WITHOUT ROWID;
CREATE INDEX kv_chunk_blob ON kv_chunk(blob_id);

---- views: the stable surface ----------------------------------------------
-- SQLite takes the tables of a CROSS JOIN in the order written: from the experiment to its labels to their answers. Left to
-- itself it starts from the answers and meets every experiment for each of them.
CREATE VIEW v_spec AS               -- the newest spec of each experiment: that of its last run. All views below show it alone
  SELECT e.name AS experiment, s.id AS spec_id
  FROM experiment e JOIN spec s ON s.id=(SELECT r.spec_id FROM run r JOIN spec x ON x.id=r.spec_id
                                         WHERE x.experiment_id=e.id ORDER BY r.id DESC LIMIT 1);
CREATE VIEW v_latest AS             -- the newest good answer of each label
  SELECT s.experiment, sj.label, sj.condition, sp.name AS prompt, a.id AS attempt_id, a.run_id, sj.job_id,
         sj.id AS spec_job_id, sj.spec_id, sj.baseline_id, sp.prompt_id
  FROM v_spec s CROSS JOIN spec_job sj ON sj.spec_id=s.spec_id CROSS JOIN spec_prompt sp ON sp.id=sj.spec_prompt_id
  CROSS JOIN attempt a ON a.id=(SELECT max(x.id) FROM attempt x WHERE x.job_id=sj.job_id AND x.status='done');
CREATE VIEW v_result AS             -- the answers; job: start of the job key
  SELECT l.experiment, l.label, l.condition, l.prompt, g.text, g.n_prompt, g.n_gen, g.stop,
         lower(hex(substr(j.key,1,6))) AS job, l.attempt_id, l.spec_job_id, l.baseline_id,
         m.name AS model, a.numerics, env.git_commit, env.gpu_name,
         1e6*g.n_gen/nullif(g.decode_us,0) AS decode_tok_s,
         strftime('%Y-%m-%dT%H:%M:%SZ', a.ended_ms/1000, 'unixepoch') AS ended
  FROM v_latest l CROSS JOIN attempt a ON a.id=l.attempt_id CROSS JOIN generation g ON g.attempt_id=l.attempt_id
  CROSS JOIN job j ON j.id=l.job_id CROSS JOIN model m ON m.id=j.model_id
  CROSS JOIN run r ON r.id=l.run_id CROSS JOIN environment env ON env.id=r.environment_id;
CREATE VIEW v_token AS              -- one row per generated token; token is NULL when the model has no tokenizer
  SELECT l.experiment, l.label, st.step, st.token_id, t.display AS token,
         st.logprob, st.margin, l.attempt_id, l.spec_job_id
  FROM v_latest l CROSS JOIN prompt p ON p.id=l.prompt_id CROSS JOIN step st ON st.attempt_id=l.attempt_id
  LEFT JOIN token t ON t.tokenizer_id=p.tokenizer_id AND t.token_id=st.token_id;
CREATE VIEW v_prompt_token AS       -- one row per token of a prompt, by the name the experiment gives it
  SELECT s.experiment, sp.name AS prompt, sp.variant, pt.pos, pt.token_id, t.display AS token, t.display,
         pt.byte_start, pt.byte_end, sp.prompt_id, sp.id AS spec_prompt_id
  FROM v_spec s CROSS JOIN spec_prompt sp ON sp.spec_id=s.spec_id CROSS JOIN prompt p ON p.id=sp.prompt_id
  CROSS JOIN prompt_token pt ON pt.prompt_id=sp.prompt_id
  LEFT JOIN token t ON t.tokenizer_id=p.tokenizer_id AND t.token_id=pt.token_id;
CREATE VIEW v_metric AS             -- numbers of the newest answers; value is NULL where flag says 'undefined'
  SELECT l.experiment, l.label, l.condition, l.prompt, d.name AS metric, mt.value, mt.flag, l.spec_job_id, l.attempt_id
  FROM v_latest l CROSS JOIN metric mt ON mt.spec_job_id=l.spec_job_id AND mt.attempt_id=l.attempt_id
  CROSS JOIN metric_def d ON d.id=mt.metric_id;
CREATE VIEW v_metric_part AS        -- the same per layer, head, position, tensor, step
  SELECT l.experiment, l.label, l.condition, l.prompt, d.name AS metric, mt.tensor, mt.layer, mt.head, mt.pos, mt.step,
         mt.value, mt.flag, l.spec_job_id, l.attempt_id
  FROM v_latest l CROSS JOIN metric_def d ON d.spec_id=l.spec_id
  CROSS JOIN metric_part mt ON mt.metric_id=d.id AND mt.spec_job_id=l.spec_job_id AND mt.attempt_id=l.attempt_id;
CREATE VIEW v_control AS            -- the controls' verdicts; of: the label they belong to, NULL: all edits of the prompt
  SELECT s.experiment, sj.label, c.kind, o.label AS of, a.label AS against, c.verdict, c.detail, c.spec_job_id
  FROM v_spec s CROSS JOIN spec_job sj ON sj.spec_id=s.spec_id CROSS JOIN control c ON c.spec_job_id=sj.id
  LEFT JOIN spec_job o ON o.id=c.of_id LEFT JOIN spec_job a ON a.id=c.against_id;
CREATE VIEW v_kv AS                 -- one row per stored chunk of a cache or of activations: where it sits, what it costs
  SELECT l.experiment, l.label, k.moment, c.layer, c.tensor, c.tok_start, c.n_tok,
         b.raw_bytes, b.stored_bytes, b.codec, k.dtype, k.k_space, c.blob_id, l.attempt_id, l.spec_job_id
  FROM v_latest l CROSS JOIN kv_capture k ON k.attempt_id=l.attempt_id AND k.complete=1
  CROSS JOIN kv_chunk c ON c.capture_id=k.id CROSS JOIN blob b ON b.id=c.blob_id;
CREATE VIEW v_divergence AS         -- first step where a job leaves its baseline; a text that ends first leaves at its end
  SELECT l.experiment, l.label, coalesce(
           (SELECT x.step FROM step x WHERE x.attempt_id=l.attempt_id AND x.token_id IS NOT
              (SELECT y.token_id FROM step y WHERE y.attempt_id=b.id AND y.step=x.step) ORDER BY x.step LIMIT 1),
           g.n_gen) AS first_diff_step, l.spec_job_id
  FROM v_latest l CROSS JOIN spec_job bj ON bj.id=l.baseline_id AND bj.id<>l.spec_job_id
  CROSS JOIN attempt b ON b.id=(SELECT max(x.id) FROM attempt x WHERE x.job_id=bj.job_id AND x.status='done')
  CROSS JOIN generation g ON g.attempt_id=l.attempt_id
  CROSS JOIN generation h ON h.attempt_id=b.id AND h.tokens_sha256<>g.tokens_sha256; -- equal hashes: equal tokens
CREATE VIEW v_storage AS            -- what the caches of an experiment would be and are: chunks may share blobs
  SELECT experiment, sum(chunks) AS chunks, count(*) AS blobs,
         sum(chunks*raw_bytes) AS logical_bytes, sum(stored_bytes) AS stored_bytes
  FROM (SELECT e.name AS experiment, count(*) AS chunks, b.raw_bytes, b.stored_bytes
        FROM kv_chunk c JOIN blob b ON b.id=c.blob_id JOIN kv_capture k ON k.id=c.capture_id
        JOIN attempt a ON a.id=k.attempt_id JOIN run r ON r.id=a.run_id JOIN spec s ON s.id=r.spec_id
        JOIN experiment e ON e.id=s.experiment_id GROUP BY e.id, b.id)
  GROUP BY experiment;
