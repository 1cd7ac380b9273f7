//! Versions of the libraries that decide about the order of text.

/// One collation of each library tells the library's version: for libc the C library's, for ICU that of its root collation
/// (`pg_collation_actual_version`, PostgreSQL docs, "Collation Management Functions"). Rows of `collation.libc` or `collation.icu` and the
/// version, which may be null; `C` and `POSIX` have none. What a backup records and a restore compares must be asked alike.
pub const VERSIONS: &str = "SELECT 'collation.' || CASE c.collprovider WHEN 'c' THEN 'libc' ELSE 'icu' END, \
     pg_catalog.max(pg_catalog.pg_collation_actual_version(c.oid)) FROM (SELECT oid, collprovider, pg_catalog.row_number() OVER \
     (PARTITION BY collprovider ORDER BY collname <> 'und-x-icu', collname) AS number FROM pg_catalog.pg_collation \
     WHERE collprovider IN ('c', 'i') AND collname NOT IN ('C', 'POSIX', 'ucs_basic') AND collname NOT LIKE 'C.%') AS c \
     WHERE c.number = 1 GROUP BY 1";
