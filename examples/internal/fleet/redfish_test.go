package fleet_test

import (
	"context"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/roundsman-go/roundsman/examples/internal/fleet"
	"github.com/roundsman-go/roundsman/sum"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/redfish"
	"github.com/roundsman-go/roundsman/transport/redfish/redfishtest"
	"github.com/stretchr/testify/require"
)

func processor(t *testing.T, cfg redfishtest.Config) *redfishtest.Server {
	cfg.Password = canary
	srv, err := redfishtest.NewServer(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, srv.Close()) })
	return srv
}

// TestRedfish: a management processor is unknown until its key is recorded, then it is held
// to it; its password is asked for once.
func TestRedfish(t *testing.T) {
	t.Parallel()
	for kind, cfg := range map[sum.Kind]redfishtest.Config{
		sum.ILO:           {Profile: redfishtest.ILO5},
		sum.SuperdomeFlex: {Profile: redfishtest.RMC},
		sum.Redfish:       {IPv6: true},
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			srv := processor(t, cfg)
			w := newWorld(t)
			asked := 0
			w.cfg.Ask = func(context.Context, string) (transport.Secret, error) {
				asked++
				return transport.NewSecret(canary), nil
			}
			target, err := sum.ParseTarget(string(kind) + "://" + srv.User() + "@" + srv.Addr())
			require.NoError(t, err)
			r, err := fleet.New(w.cfg)
			require.NoError(t, err)
			_, err = connect(t, r, target)
			require.ErrorIs(t, err, transport.ErrUnknownIdentity)
			require.Zero(t, srv.Sessions(), "nobody who is unknown is told a password")

			w.cfg.AcceptNew = true
			for range 2 {
				r, err = fleet.New(w.cfg)
				require.NoError(t, err)
				_, err = connect(t, r, target)
				require.NoError(t, err)
				w.cfg.AcceptNew = false
			}
			pins := filepath.Join(w.cfg.Home, ".local", "state", "roundsman", "redfish_pins")
			require.FileExists(t, pins)
			require.Contains(t, w.log.String(), "msg=dial", "Debug logs the calls")

			// Somebody else at the same address.
			require.NoError(t, os.WriteFile(pins, []byte(srv.Addr()+" "+transport.Fingerprint([]byte("another"))+"\n"), 0o600))
			for _, w.cfg.AcceptNew = range []bool{false, true} {
				r, err = fleet.New(w.cfg)
				require.NoError(t, err)
				_, err = connect(t, r, target)
				require.ErrorIs(t, err, transport.ErrTrust)
				require.NotErrorIs(t, err, transport.ErrUnknownIdentity)
			}
		})
	}
}

// TestRedfishAuthority: an authority of one's own takes the place of recorded keys.
func TestRedfishAuthority(t *testing.T) {
	t.Parallel()
	srv := processor(t, redfishtest.Config{})
	w := newWorld(t)
	w.cfg.Password = transport.NewSecret(canary)
	w.cfg.Redfish = redfish.Options{Profile: redfish.ProfileGeneric}
	ca := w.write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	w.cfg.Authorities = []string{ca}
	r, err := fleet.New(w.cfg)
	require.NoError(t, err)
	target := sum.Target{Kind: sum.Redfish, User: srv.User(), Address: srv.Addr()}
	_, err = connect(t, r, target)
	require.NoError(t, err)

	w.cfg.Authorities = []string{w.write("none.pem", "nothing")}
	r, err = fleet.New(w.cfg)
	require.NoError(t, err)
	_, err = connect(t, r, target)
	require.ErrorIs(t, err, sum.ErrInvalid)
	require.ErrorContains(t, err, "none.pem")
}

func TestRedfishRefused(t *testing.T) {
	t.Parallel()
	r, err := fleet.New(newWorld(t).cfg)
	require.NoError(t, err)
	_, err = connect(t, r, sum.Target{Kind: sum.ILO, Address: "ilo1"})
	require.ErrorIs(t, err, transport.ErrInvalid)
	require.ErrorContains(t, err, "ilo://Administrator@ilo1")
	_, err = connect(t, r, sum.Target{Kind: sum.ILO, User: "ops", Address: "ilo1", Object: "bay"})
	require.ErrorIs(t, err, transport.ErrInvalid)
	_, err = connect(t, r, sum.Target{Kind: sum.ILO, User: "ops", Address: net.JoinHostPort("127.0.0.1", "1")})
	require.ErrorContains(t, err, "password for ops", "nobody is there to ask")
}

// connect dials a target as a session does, and reads who it is.
func connect(t *testing.T, r *fleet.Resolver, target sum.Target) (transport.Identity, error) {
	tr, ep, err := r.Resolve(t.Context(), target)
	if err != nil {
		return transport.Identity{}, err
	}
	conn, err := tr.Dial(t.Context(), ep)
	if err != nil {
		return transport.Identity{}, err
	}
	defer func() { require.NoError(t, conn.Close(context.WithoutCancel(t.Context()))) }()
	return conn.Identify(t.Context())
}
