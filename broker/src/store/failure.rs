//! Faults of a database, as the store's words have them.

use super::StoreError;

/// The database did not do what it was asked.
pub(super) fn failed(what: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| StoreError::Database { what, source: source.into() }
}

/// The database holds what this release never wrote.
pub(super) fn corrupt(
    what: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Database { what, source: source.into() }
}

/// What the database calls its fault.
pub(super) fn code(error: &StoreError) -> Option<String> {
    let StoreError::Database { source, .. } = error else { return None };
    let error = source.downcast_ref::<sqlx::Error>()?.as_database_error()?;
    error.code().map(std::borrow::Cow::into_owned)
}
