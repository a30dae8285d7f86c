package main

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/sum/agent"
	"github.com/roundsman-go/roundsman/transport"
	"github.com/roundsman-go/roundsman/transport/smb"
)

// windowsLogin is how the managers of TestWindows reach their target.
type windowsLogin struct {
	Address, User, Password string
	ConnectTimeout          time.Duration // 0 means 5 s
}

func (l *windowsLogin) endpoint() (transport.Transport, transport.Endpoint) {
	return &smb.Transport{}, transport.Endpoint{
		Address:     l.Address,
		Credentials: transport.Credentials{User: l.User, Password: transport.NewSecret(l.Password)},
		// A line that is cut has to be found out before the test's time is over.
		Options: smb.Options{ShareRoot: `C:\Windows`, KeepAlive: time.Second, ConnectTimeout: cmp.Or(l.ConnectTimeout, 5*time.Second)},
	}
}

// The calls of the service control manager are steps as well.

func (c steppedConn) CreateService(ctx context.Context, cfg transport.ServiceConfig) error {
	c.s.at("create " + serviceKind(cfg.Name))
	return c.Forward.CreateService(ctx, cfg)
}

func (c steppedConn) StartService(ctx context.Context, name string, args ...string) error {
	c.s.at("start " + serviceKind(name))
	return c.Forward.StartService(ctx, name, args...)
}

func (c steppedConn) QueryService(ctx context.Context, name string) (transport.ServiceStatus, error) {
	c.s.at("query")
	return c.Forward.QueryService(ctx, name)
}

func (c steppedConn) StopService(ctx context.Context, name string) error {
	c.s.at("stop " + serviceKind(name))
	return c.Forward.StopService(ctx, name)
}

func (c steppedConn) DeleteService(ctx context.Context, name string) error {
	c.s.at("delete " + serviceKind(name))
	return c.Forward.DeleteService(ctx, name)
}

// serviceKind is what a service is for.
func serviceKind(name string) string {
	for kind, prefix := range map[string]string{"agent": agent.ServiceName(""), "remover": agent.RemoveServiceName("")} {
		if strings.HasPrefix(name, prefix) {
			return kind
		}
	}
	return "other"
}
