# What tools of an agent may hold. Bindings say which tool may ask for what; this takes away from that.
package dayfly.untrusted_tools

decision := {
	"allow": count(reasons) == 0,
	"reasons": reasons,
	"narrow": narrow,
}

# A tool acts for somebody. By itself it has nothing to ask for.
reasons contains "a tool is given nothing outside the task of somebody else" if {
	input.proven.stage == "tool"
	input.proven.task.depth == 0
}

# Two tools between a person's agent and the data are one too many.
reasons contains sprintf("%v tools stand in the chain; at most 1 may", [count(tools)]) if {
	count(tools) > 1
}

# Where the agent knows a process by a number alone, another may have taken its place.
reasons contains "the agent cannot tell this process from one that takes its number" if {
	input.proven.via == "agent"
	input.observed.anchor == "process"
	input.observed.attested_by != "pidfd"
}

# In a tool's hands targets see whose hands they are, and credentials are short.
narrowings contains {"tags": {"hands": "tool"}} if in_tool_hands

narrowings contains {"max_ttl": 120} if {
	in_tool_hands
	input.proven.provider != "aws"
}

# No AWS session lasts less than 15 minutes: one that had to be shorter would be refused.
narrowings contains {"max_ttl": 900} if {
	in_tool_hands
	input.proven.provider == "aws"
}

# And read-only, whatever the scope's session policy allows.
narrowings contains {"deny_statements": [{
	"Sid": "ToolsReadOnly",
	"Effect": "Deny",
	"NotAction": ["s3:GetObject", "s3:ListBucket"],
	"Resource": "*",
}]} if {
	in_tool_hands
	input.proven.provider == "aws"
}

narrow := object.union_n([narrowing | some narrowing in narrowings])

tools contains place if {
	some place, link in input.proven.chain
	link.stage == "tool"
}

in_tool_hands if input.proven.stage == "tool"
