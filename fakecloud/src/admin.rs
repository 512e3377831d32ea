//! What a test in another process says to the cloud, as JSON beneath `/_fakecloud/`.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use serde_json::{Value, json};

use crate::cloud::{Asked, Cloud, lock};
use crate::seed::Seed;
use crate::trouble::{Fault, Settings};

/// The routes of the test's own.
pub(crate) fn routes() -> Router<Arc<Cloud>> {
    Router::new()
        .route("/_fakecloud/ready", get(async || "ready"))
        .route("/_fakecloud/seed", post(seed))
        .route("/_fakecloud/settings", get(settings).put(set))
        .route("/_fakecloud/faults", post(fault).delete(clear))
        .route("/_fakecloud/asked", get(asked).delete(forget))
        .route("/_fakecloud/complaints", get(complaints))
        .route("/_fakecloud/policies", get(policies))
}

async fn seed(State(cloud): State<Arc<Cloud>>, Json(seed): Json<Seed>) -> Result<(), (StatusCode, String)> {
    cloud.account().add(&seed).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
}

async fn settings(State(cloud): State<Arc<Cloud>>) -> Json<Settings> {
    Json(cloud.settings())
}

/// What is not named takes its default.
async fn set(State(cloud): State<Arc<Cloud>>, Json(settings): Json<Settings>) {
    lock(&cloud.troubles).settings = settings;
}

async fn fault(State(cloud): State<Arc<Cloud>>, Json(fault): Json<Fault>) {
    lock(&cloud.troubles).faults.push(fault);
}

async fn clear(State(cloud): State<Arc<Cloud>>) {
    lock(&cloud.troubles).faults.clear();
}

async fn asked(State(cloud): State<Arc<Cloud>>) -> Json<Vec<Asked>> {
    Json(lock(&cloud.log).iter().cloned().collect())
}

async fn forget(State(cloud): State<Arc<Cloud>>) {
    lock(&cloud.log).clear();
}

async fn complaints(State(cloud): State<Arc<Cloud>>) -> Json<Vec<String>> {
    Json(lock(&cloud.complaints).clone())
}

/// The inline policies of every role, as they were put last.
async fn policies(State(cloud): State<Arc<Cloud>>) -> Json<Value> {
    let account = cloud.account();
    let of = |role: &crate::account::Role| -> Value {
        role.inline.latest().iter().map(|(name, inline)| (name.clone(), json!(inline.text))).collect()
    };
    Json(account.roles.iter().map(|(name, role)| (name.clone(), of(role))).collect())
}
