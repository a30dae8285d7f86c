// Package fleet is what most programs that use package sum need around it: a
// fleet file that names the targets, and a [sum.Resolve] that reaches them as
// the caller's own OpenSSH would.
//
//	file, err := fleet.ReadFile("fleet.yaml")
//	...
//	resolver, err := fleet.New(fleet.Config{})
//	...
//	defer resolver.Close(ctx)
//	session, err := sum.Open(ctx, sum.Config{Resolve: resolver.Resolve})
//
// # What is found without being told
//
// The zero [Config] finds what OpenSSH finds: known_hosts of the user and of the
// system, the default identities, the agent at SSH_AUTH_SOCK, and of
// ~/.ssh/config (ssh_config(5)) the keywords
//
//	HostName, Port, User, IdentityFile, IdentitiesOnly, IdentityAgent,
//	ProxyJump, UserKnownHostsFile, GlobalKnownHostsFile, ConnectTimeout
//
// in Host, "Match all" and "Match host" blocks and in included files. A host
// with a ProxyCommand is refused: it would be reached another way than the user
// meant. A target whose host key is not known is refused, never asked about.
//
// # Windows servers
//
// A target of kind windows is reached over SMB with a user name, such as
// windows://DOMAIN;user@host, and a password. Nothing of OpenSSH's configuration counts
// there, jump hosts included.
//
// # The manager's own host
//
// A target of kind local is this host: nothing is dialled, no password is needed,
// and everything is done with the rights of this process.
//
// # Passwords
//
// Passwords are given to the Config by the program, which has them from files,
// the environment or a prompt; a fleet file cannot hold any, but name a file for each
// target (password_file). Config.Ask is called only when a target refused the keys, or
// is a Windows server, and once for each user name. A Windows server for which there is
// no password, and nobody to ask, is not dialled: [sum.ErrNoPassword]. A password that one of
// them refused to an account of a domain is not tried on the others: each wrong one counts
// against the account, and may lock it.
//
// # Jump hosts
//
// Targets behind the same ProxyJump share one connection to the jump host, which
// ends with the last of them.
package fleet
