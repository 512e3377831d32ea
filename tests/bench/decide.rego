# Five rules of the kinds that platform teams write: on stage, chain, anchor, values and time.
package dayfly.bench

default decision := {"allow": false}

decision := {"allow": count(deny) == 0, "reasons": deny, "narrow": narrow}

deny contains "training reads nothing under an inference task" if {
	input.proven.stage == "training"
	some link in input.proven.chain
	link.stage == "inference"
}

deny contains "run under a node agent that owns the task's cgroup" if {
	input.proven.via == "agent"
	input.observed.anchor != "cgroup_owned"
}

deny contains "tasks stand at most four deep" if input.proven.task.depth > 4

deny contains "this dataset is closed" if {
	input.proven.scope == "data-0"
	startswith(input.claimed.parameters.dataset, "closed-")
}

narrow := {"max_ttl": 120} if input.proven.task.deadline - input.proven.now > 3600

else := {}
