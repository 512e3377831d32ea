package dayfly.untrusted_tools_test

import data.dayfly.untrusted_tools

tool := {
	"proven": {
		"spiffe_id": "spiffe://example.org/tool/search",
		"trust_domain": "example.org",
		"stage": "tool",
		"via": "agent",
		"scope": "s3-train-read",
		"provider": "aws",
		"action": "issue",
		"task": {"id": "task_2", "session": "task_1", "depth": 1, "opened_at": 1760000000, "deadline": 1760003600},
		"chain": [
			{"spiffe_id": "spiffe://example.org/inference/planner", "stage": "inference"},
			{"spiffe_id": "spiffe://example.org/tool/search", "stage": "tool"},
		],
		"now": 1760000060,
	},
	"observed": {
		"node": "spiffe://example.org/node/n1",
		"anchor": "cgroup_owned",
		"attested_by": "pidfd",
		"cgroup_id": 4711,
		"boot_id": "b3c7",
	},
	"claimed": {"intent": "search papers", "labels": {}, "parameters": {"dataset": "corpus-7"}, "ttl": 900},
}

with_patch(patch) := object.union(tool, patch)

test_a_tool_under_its_agent_is_narrowed if {
	answer := untrusted_tools.decision with input as tool
	answer.allow
	answer.narrow.max_ttl == 900
	answer.narrow.deny_statements[0].Effect == "Deny"
	answer.narrow.tags.hands == "tool"
}

test_only_aws_takes_statements if {
	answer := untrusted_tools.decision with input as with_patch({"proven": {"provider": "vault"}})
	answer.allow
	answer.narrow.max_ttl == 120
	not answer.narrow.deny_statements
}

test_a_tool_by_itself_is_denied if {
	answer := untrusted_tools.decision with input as with_patch({"proven": {"task": {"depth": 0}}})
	not answer.allow
	"a tool is given nothing outside the task of somebody else" in answer.reasons
}

test_a_second_tool_is_denied if {
	chain := array.concat(tool.proven.chain, [{"spiffe_id": "spiffe://example.org/tool/shell", "stage": "tool"}])
	answer := untrusted_tools.decision with input as with_patch({"proven": {"chain": chain}})
	answer.reasons == {"2 tools stand in the chain; at most 1 may"}
}

test_a_process_that_is_not_watched_is_denied if {
	loose := {"observed": {"anchor": "process", "attested_by": "peercred"}}
	answer := untrusted_tools.decision with input as with_patch(loose)
	not answer.allow
}

test_others_are_left_alone if {
	planner := {
		"stage": "inference",
		"spiffe_id": "spiffe://example.org/inference/planner",
		"task": {"depth": 0},
		"chain": [{"spiffe_id": "spiffe://example.org/inference/planner", "stage": "inference"}],
	}
	answer := untrusted_tools.decision with input as with_patch({"proven": planner})
	answer == {"allow": true, "reasons": set(), "narrow": {}}
}
