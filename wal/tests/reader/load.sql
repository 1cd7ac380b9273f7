-- Something of every kind of record that the reader looks into.
\set ON_ERROR_STOP on
SELECT pg_create_restore_point('before');
CREATE TABLE t (i int PRIMARY KEY, v text);
BEGIN; INSERT INTO t VALUES (1, 'a'); SAVEPOINT s; INSERT INTO t VALUES (2, 'b'); ROLLBACK TO s;
SAVEPOINT s2; INSERT INTO t VALUES (3, 'c'); RELEASE s2; COMMIT;
BEGIN; INSERT INTO t VALUES (4, 'd'); ROLLBACK;
BEGIN; CREATE TABLE gone (i int); INSERT INTO gone VALUES (1); ROLLBACK;
CREATE TABLE dropped (i int); INSERT INTO dropped VALUES (1); DROP TABLE dropped;
BEGIN; INSERT INTO t VALUES (5, 'e'); PREPARE TRANSACTION 'committed';
COMMIT PREPARED 'committed';
BEGIN; INSERT INTO t VALUES (6, 'f'); PREPARE TRANSACTION 'aborted';
ROLLBACK PREPARED 'aborted';
BEGIN; CREATE TABLE made (i int, t text); INSERT INTO t VALUES (7, 'g'); DROP TABLE made; CREATE TABLE kept (i int);
PREPARE TRANSACTION 'with relations and invalidations';
COMMIT PREPARED 'with relations and invalidations';
-- Each iteration of a block with an exception clause is a subtransaction.
BEGIN;
DO $$ BEGIN FOR n IN 100..3100 LOOP BEGIN INSERT INTO t VALUES (n, 'x'); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$;
PREPARE TRANSACTION 'with many subtransactions';
COMMIT PREPARED 'with many subtransactions';
SELECT pg_switch_wal();
SELECT pg_logical_emit_message(true, 'small', 'message');
SELECT pg_switch_wal();
SELECT length(pg_logical_emit_message(false, 'big', repeat('0123456789abcdef', 2097152))::text);
SELECT pg_create_restore_point('after the big one');
SELECT pg_replication_origin_create('elsewhere');
SELECT pg_replication_origin_session_setup('elsewhere');
BEGIN;
SELECT pg_replication_origin_xact_setup('0/AABBCC', '2020-02-02 02:02:02+00');
INSERT INTO t VALUES (8, 'h');
SAVEPOINT s; INSERT INTO t VALUES (9, 'i'); RELEASE s;
COMMIT;
SELECT pg_replication_origin_session_reset();
-- Records that meet every page end: 700 lengths, one after the other.
SELECT count(pg_logical_emit_message(false, 'p', repeat('y', n))) FROM generate_series(0, 1400, 2) AS n;
CHECKPOINT;
UPDATE t SET v = v || 'z';
VACUUM t;
INSERT INTO t VALUES (10, 'j');
SELECT pg_switch_wal();
INSERT INTO t VALUES (11, 'k');
