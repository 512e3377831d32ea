package dayfly.bench_test

import data.dayfly.bench

request := {
	"proven": {
		"stage": "training",
		"via": "agent",
		"scope": "data-0",
		"chain": [{"stage": "training"}],
		"task": {"depth": 0, "deadline": 7200},
		"now": 0,
	},
	"observed": {"anchor": "cgroup_owned"},
	"claimed": {"parameters": {"dataset": "corpus-7"}},
}

test_a_long_task_gets_short_credentials if {
	bench.decision == {"allow": true, "reasons": set(), "narrow": {"max_ttl": 120}} with input as request
}

test_a_closed_dataset_is_denied if {
	closed := object.union(request, {"claimed": {"parameters": {"dataset": "closed-1"}}})
	not bench.decision.allow with input as closed
}
