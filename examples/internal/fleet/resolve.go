package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/local"
	"github.com/roundsman-go/roundsman/transport/ssh"
)

// A Resolver turns targets into connections: its method Resolve is the
// sum.Config.Resolve of most programs. It is safe for concurrent use.
type Resolver struct {
	cfg   Config
	ssh   sshConfig
	keys  keyring
	asked secrets
	jumps jumps
	roots authorities // of Redfish services

	accounts accounts // of Windows domains

	mu     sync.Mutex
	routes map[string]transport.Transport // by chain of jump hosts; "" is the direct one, smbRoute and redfishRoute those of other protocols
}

// New returns a Resolver. It reads OpenSSH's configuration, once; keys and
// known_hosts are read when a target needs them.
func New(cfg Config) (*Resolver, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("finding the user's home and name: %w", err)
	}
	r := &Resolver{cfg: cfg, routes: map[string]transport.Transport{}}
	r.asked.ask = cfg.Ask
	if r.ssh, err = loadSSHConfig(cfg); err != nil {
		return nil, err
	}
	return r, nil
}

// Resolve implements sum.Resolve for targets of kind linux, over SSH, of kind windows,
// over SMB, of the kinds ilo, superdome-flex and redfish, over Redfish, and of kind local.
// For a kind without a driver the error matches errors.ErrUnsupported and names the kind.
func (r *Resolver) Resolve(ctx context.Context, t sum.Target) (transport.Transport, transport.Endpoint, error) {
	fail := func(err error) (transport.Transport, transport.Endpoint, error) {
		return nil, transport.Endpoint{}, err
	}
	if err := r.Check(t); err != nil {
		return fail(err)
	}
	if t.Kind == sum.Local {
		return r.local(t)
	}
	if t.Kind != sum.Linux && t.Kind != sum.Windows && !SpeaksRedfish(t.Kind) {
		return fail(&transport.Error{Op: "resolve", Target: t.Address, Kind: errors.ErrUnsupported,
			Hint: fmt.Sprintf("this program has no driver for targets of kind %q", t.Kind)})
	}
	switch {
	case t.Kind == sum.Windows:
		return r.windows(t)
	case SpeaksRedfish(t.Kind):
		return r.redfish(t)
	}
	s, err := r.lookup(t.Address, t.User)
	if err != nil {
		return fail(err)
	}
	ep, err := r.endpoint(ctx, s, r.password(t), false)
	if err != nil {
		return fail(err)
	}
	hops, err := r.chain(s.jumps)
	if err != nil {
		return fail(err)
	}
	return &asking{&patient{r.route(hops), r.reachTime(s)}, r, loginSecret(s.user)}, ep, nil
}

// password is the one that was given for a target: its own, or that of all.
func (r *Resolver) password(t sum.Target) transport.Secret {
	if own := r.cfg.Passwords[t.String()]; !own.IsZero() {
		return own
	}
	return r.cfg.Password
}

// local reaches the manager's own host: with the rights of this process, as
// there is nobody who could give it others.
func (r *Resolver) local(t sum.Target) (transport.Transport, transport.Endpoint, error) {
	var tr transport.Transport = &local.Transport{}
	if r.cfg.Debug {
		tr = transport.Log(tr, r.cfg.Logger)
	}
	return tr, transport.Endpoint{Address: t.Address, Object: t.Object, Credentials: transport.Credentials{User: t.User}}, nil
}

// mayDoAll reports whether this process has the rights that sudo would give it.
func mayDoAll() bool { return runtime.GOOS == "windows" || os.Geteuid() == 0 }

// Close ends the connections to jump hosts. Connections through them are lost,
// so the session is to be closed first. It returns nil.
func (r *Resolver) Close(ctx context.Context) error {
	r.jumps.close(ctx)
	return nil
}

// endpoint describes a target, or a jump host, to the driver. It holds for one
// dial: its signers end with ctx. password is the one that was given for a target, if
// any. Whoever runs a jump host is not necessarily
// trusted with what opens the targets, so it is offered no password of theirs.
func (r *Resolver) endpoint(ctx context.Context, s settings, password transport.Secret, jump bool) (transport.Endpoint, error) {
	signers, err := r.signers(ctx, s)
	if err != nil {
		return transport.Endpoint{}, err
	}
	opts := ssh.Options{Signers: signers, ConnectTimeout: r.reachTime(s)}
	if !s.onlyListed {
		opts.AgentSocket = s.agent
	}
	if r.cfg.Ask != nil && s.timeout == 0 {
		// Somebody may have to type a passphrase. It is what OpenSSH's server
		// allows for logging in.
		opts.ConnectTimeout = max(opts.ConnectTimeout, 2*time.Minute)
	}
	if jump {
		return transport.Endpoint{
			Address:     joinPort(s.host, s.port),
			Credentials: transport.Credentials{User: s.user, Password: r.asked.get(jumpSecret(s))},
			Trust:       transport.Trust{KnownHosts: s.knownHosts},
			Options:     opts, // who jumps needs no rights of root on the jump host
		}, nil
	}
	if password.IsZero() {
		password = r.asked.get(loginSecret(s.user))
	}
	if r.cfg.Sudo {
		opts.Elevate = ssh.Sudo
		opts.SudoPassword = r.sudoPassword(s.user, password)
	}
	return transport.Endpoint{
		Address:     joinPort(s.host, s.port),
		Credentials: transport.Credentials{User: s.user, Password: password},
		Trust:       transport.Trust{KnownHosts: s.knownHosts},
		Options:     opts,
	}, nil
}

func (r *Resolver) sudoPassword(user string, login transport.Secret) transport.Secret {
	for _, s := range []transport.Secret{r.cfg.SudoPassword, r.asked.get(sudoSecret(user))} {
		if !s.IsZero() {
			return s
		}
	}
	return login
}

// route returns the transport for targets behind jump hosts, decorated. Each
// route has its own limit of handshakes: that of the host which bears them.
func (r *Resolver) route(hops []settings) transport.Transport {
	key := chainKey(hops)
	return r.decorated(key, func() transport.Transport {
		if len(hops) > 0 {
			return &jumping{r, hops}
		}
		return &ssh.Transport{DialContext: r.dialNetwork}
	})
}

// decorated returns the transport of a route, which is made once.
func (r *Resolver) decorated(key string, plain func() transport.Transport) transport.Transport {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.routes[key]; t != nil {
		return t
	}
	t := plain()
	if r.cfg.Debug {
		t = transport.Log(t, r.cfg.Logger)
	}
	t = transport.Limit(t, transport.LimitOptions{Dials: r.cfg.Handshakes})
	t = transport.Retry(lastTry{t}, transport.RetryOptions{OnRetry: func(op string, try int, err error) {
		r.cfg.Logger.Warn("a call to a target failed for a reason that may pass; trying again", "call", op, "failed", try, "err", err)
	}})
	r.routes[key] = t
	return t
}
