//! The contract every store is held to: the same tests run against each of them.
//!
//! After each test the [`World`] checks what must hold whatever happened: the chains verify, each transition has its
//! record, and nothing is open under what is over.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub(crate) mod approvals;
pub(crate) mod assertions;
pub(crate) mod claims;
pub(crate) mod documents;
pub(crate) mod ends;
pub(crate) mod issue_keys;
pub(crate) mod keys;
pub(crate) mod kills;
pub(crate) mod leases;
pub(crate) mod nodes;
pub(crate) mod queue;
pub(crate) mod random;
pub(crate) mod recording;
pub(crate) mod revocations;
pub(crate) mod slots;
pub(crate) mod world;

pub(crate) use self::world::{Fixture, World};

/// Holds a store to the contract. `$start` gives a future of a [`Fixture`] over an empty store.
macro_rules! store_contract {
    ($start:expr) => {
        store_contract! { @each $start;
            ends::an_end_takes_the_whole_tree_and_every_lease_in_it,
            ends::what_stands_beside_the_ended_task_stays,
            ends::a_second_end_changes_nothing,
            ends::a_pending_lease_is_given_up_and_its_late_answer_taken_back,
            ends::an_answer_past_the_deadline_is_taken_back,
            ends::nothing_is_opened_under_what_is_over,
            ends::nothing_is_opened_past_a_deadline_above,
            ends::a_task_names_its_own_session,
            ends::a_tree_is_read_as_it_stood_at_a_moment,
            ends::overdue_tasks_end_with_all_under_them,
            ends::an_identity_loses_its_tasks_and_its_leases_elsewhere,
            ends::a_node_ends_with_its_tasks,
            ends::tasks_missing_from_an_inventory_end,
            claims::a_claimed_task_is_the_claimants_until_the_offered_deadline,
            claims::only_the_named_workload_claims_and_only_once,
            claims::an_offer_lapses_with_its_own_end_and_with_any_deadline_above,
            claims::nothing_is_opened_under_an_offer,
            claims::what_is_under_a_claimed_task_ends_with_the_task_above,
            claims::an_inventory_judges_a_claimed_task_from_its_claim_on,
            claims::of_many_claims_at_once_one_wins,
            leases::what_is_written_is_read_back,
            leases::a_lease_given_locally_is_active_at_once,
            leases::live_leases_are_limited_by_identity,
            leases::live_leases_are_limited_by_node,
            leases::live_leases_are_limited_by_scope_and_by_session,
            leases::a_renewal_may_stand_beside_what_it_renews,
            leases::a_refused_lease_counts_for_nothing,
            leases::a_change_that_fails_takes_no_other_with_it,
            leases::an_event_that_makes_no_sense_changes_nothing,
            leases::an_extension_needs_an_open_task,
            leases::a_lease_is_opened_in_no_other_state,
            leases::lists_are_filtered_and_newest_first,
            revocations::two_claims_never_hold_the_same_lease,
            revocations::claims_are_by_provider_oldest_first,
            revocations::a_claim_that_lapsed_can_be_taken_again,
            revocations::a_failed_revocation_is_tried_again_at_its_time,
            revocations::what_cannot_be_taken_back_is_not_claimed_and_runs_out,
            revocations::lost_answers_are_given_up,
            revocations::single_leases_are_taken_back,
            revocations::a_handle_is_amended_where_there_is_one,
            slots::each_tree_has_blocks_of_its_own,
            slots::a_full_role_spills_to_the_next_and_a_full_pool_refuses,
            slots::what_is_taken_back_is_denied_from_the_next_version_on,
            slots::what_its_scope_does_not_want_denied_runs_out,
            slots::one_broker_at_a_time_writes_a_document,
            slots::a_slot_is_free_again_only_when_no_document_can_mean_it,
            slots::a_canary_is_denied_with_what_it_is_to_prove,
            documents::documents_are_applied_whole_and_kept,
            documents::a_stale_revision_is_refused,
            documents::documents_are_read_as_they_stood_at_a_revision,
            assertions::an_assertion_is_taken_once_also_after_a_restart,
            assertions::of_two_that_bring_an_assertion_at_once_one_is_heard,
            assertions::an_assertion_that_ran_out_is_not_taken_and_then_forgotten,
            approvals::an_approval_reads_back_as_it_was_asked_and_decided,
            approvals::of_two_that_decide_at_once_one_is_told,
            approvals::lists_hold_what_is_live_newest_first,
            approvals::only_so_many_requests_wait,
            approvals::a_yes_waits_for_its_record_and_taking_back_does_not,
            issue_keys::who_asks_again_gets_another_in_the_place_of_the_first,
            issue_keys::a_key_in_flight_waits_and_another_request_under_it_is_refused,
            issue_keys::keys_are_forgotten_with_their_task,
            issue_keys::of_many_at_once_under_one_key_one_lives,
            keys::a_key_that_was_taken_out_stays_out,
            keys::a_key_is_taken_out_though_it_cannot_be_recorded,
            kills::a_kill_reads_back_as_it_was_asked_and_decided,
            kills::of_two_that_move_a_kill_at_once_one_is_told,
            kills::only_so_many_kills_stand_or_wait,
            kills::a_kill_stands_without_its_record_and_is_not_lifted_without,
            kills::what_is_cut_off_ends_in_parts_and_the_rest_stays,
            kills::a_scope_a_provider_and_a_node_are_cut_off_by_themselves,
            kills::what_is_live_is_counted_and_what_was_taken_is_tallied,
            queue::what_an_admin_takes_goes_first_and_what_ran_out_last,
            queue::the_queue_tells_what_is_stuck_and_is_tried_again_at_a_word,
            queue::what_the_lease_alone_settles_is_verified_in_parts,
            nodes::a_second_boot_waits_until_the_first_lapsed,
            nodes::only_the_newest_stream_speaks,
            nodes::a_node_lapses_with_its_tasks_in_one_step_and_once,
            nodes::a_spared_lease_holds_its_task_and_those_above_and_no_other_lease,
            nodes::of_two_that_move_the_brake_one_does,
            recording::every_change_has_its_record,
            recording::without_a_record_nothing_is_granted,
            recording::what_ends_goes_on_without_a_record_and_says_so,
            recording::reopening_keeps_everything,
            recording::records_are_read_from_any_number_on,
            recording::records_are_found_by_time_and_by_what_they_hold,
            recording::what_needs_an_open_task_is_not_recorded_after_its_end,
            random::no_interleaving_leaves_anything_alive_under_an_ended_task,
        }
    };
    (@each $start:expr; $($module:ident::$name:ident),* $(,)?) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let mut world = $crate::store::contract::World::new($start.await);
            $crate::store::contract::$module::$name(&mut world).await;
            world.check().await;
        }
    )* };
}
pub(crate) use store_contract;
