//! The schema, step by step. Each step has the same number and name for SQLite and for PostgreSQL.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

macro_rules! steps {
    ($($number:literal $name:literal),* $(,)?) => {
        /// Number, name, SQL.
        const SQLITE: &[(i64, &str, &str)] = &[$((
            $number,
            $name,
            include_str!(concat!("../../../migrations/sqlite/", $name, ".sql")),
        )),*];
        const POSTGRES: &[(i64, &str, &str)] = &[$((
            $number,
            $name,
            include_str!(concat!("../../../migrations/postgres/", $name, ".sql")),
        )),*];
    };
}

steps! {
    1 "0001_documents",
    2 "0002_tasks_and_leases",
    3 "0003_nodes",
    4 "0004_audit",
    5 "0005_authorization",
    6 "0006_brokers",
    7 "0007_brake",
    8 "0008_signing_keys",
    9 "0009_kills",
    10 "0010_aws_sessions",
    11 "0011_issue_keys",
}

/// The steps for SQLite.
pub fn sqlite() -> Migrator {
    migrator(SQLITE)
}

/// The steps for PostgreSQL.
pub fn postgres() -> Migrator {
    migrator(POSTGRES)
}

fn migrator(steps: &[(i64, &'static str, &'static str)]) -> Migrator {
    let step = |&(number, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(number, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(steps.iter().map(step).collect())
}

/// The newest schema this release knows.
pub fn newest() -> i64 {
    SQLITE.iter().map(|(number, ..)| *number).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn folder(engine: &str) -> Vec<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations").join(engine);
        let mut names: Vec<String> = fs::read_dir(folder)
            .expect("the folder is committed")
            .map(|entry| entry.expect("readable").file_name().into_string().expect("plain name"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn both_engines_have_the_same_steps_and_all_are_embedded() {
        let embedded: Vec<String> = SQLITE.iter().map(|(_, name, _)| format!("{name}.sql")).collect();
        assert_eq!(folder("sqlite"), embedded);
        assert_eq!(folder("postgres"), embedded);
        for (number, name, _) in SQLITE {
            assert!(name.starts_with(&format!("{number:04}_")), "{name}");
        }
    }
}
