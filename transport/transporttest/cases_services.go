package transporttest

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/roundsman-go/roundsman/transport"
)

func serviceCases() []Case {
	return []Case{
		{Name: "services/lifecycle", Needs: transport.CapServices, run: servicesLifecycle},
		{Name: "services/missing", Needs: transport.CapServices, run: servicesMissing},
		{Name: "services/invalid", Needs: transport.CapServices, run: servicesInvalid},
	}
}

func servicesLifecycle(ctx context.Context, e *env) error {
	if e.Service.Name == "" {
		return e.missing("Service")
	}
	return e.with(ctx, func(conn transport.Conn) error {
		var f failures
		name := e.Service.Name
		state := func(want transport.ServiceState) error {
			return e.poll(ctx, func() error {
				st, err := transport.QueryService(ctx, conn, name)
				if err != nil {
					return err
				}
				if st.State != want || (want == transport.ServiceStopped && st.PID != 0) {
					return fmt.Errorf("service is %+v, want %s", st, want)
				}
				return nil
			})
		}
		if err := transport.CreateService(ctx, conn, e.Service); err != nil {
			return fmt.Errorf("create: %w", err)
		}
		f.add(e.wantErr("create of a service that exists", transport.CreateService(ctx, conn, e.Service), fs.ErrExist))
		f.add(state(transport.ServiceStopped))
		for range 2 {
			if err := transport.StartService(ctx, conn, name, "argument", "with space"); err != nil {
				f.addf("start: %w", err)
			}
			f.add(state(transport.ServiceRunning))
			f.add(e.wantErr("start of a service that runs", transport.StartService(ctx, conn, name)))
			if err := transport.StopService(ctx, conn, name); err != nil {
				f.addf("stop: %w", err)
			}
			// Stop waits, so no polling here.
			if st, err := transport.QueryService(ctx, conn, name); err != nil || st.State != transport.ServiceStopped {
				f.addf("after stop the service is %+v, %v", st, err)
			}
		}
		if err := transport.DeleteService(ctx, conn, name); err != nil {
			f.addf("delete: %w", err)
		}
		_, err := transport.QueryService(ctx, conn, name)
		f.add(e.wantErr("query of a deleted service", err, fs.ErrNotExist))
		return f.err()
	})
}

func servicesMissing(ctx context.Context, e *env) error {
	if e.Service.Name == "" {
		return e.missing("Service")
	}
	return e.with(ctx, func(conn transport.Conn) error {
		var f failures
		for _, o := range e.offered() {
			switch o.name {
			case "start service", "query service", "stop service", "delete service":
				f.add(e.wantErr(o.name+" that does not exist", o.call(ctx, conn), fs.ErrNotExist))
			}
		}
		return f.err()
	})
}

func servicesInvalid(ctx context.Context, e *env) error {
	return e.with(ctx, func(conn transport.Conn) error {
		var f failures
		for what, cfg := range map[string]transport.ServiceConfig{
			"a service without a name":    {Argv: []string{"program"}},
			"a service without a program": {Name: "conformance-none"},
		} {
			before := e.requests()
			f.add(e.wantErr("create of "+what, transport.CreateService(ctx, conn, cfg), transport.ErrInvalid))
			if n := e.requests() - before; n != 0 {
				f.addf("create of %s sent %d requests", what, n)
			}
		}
		return f.err()
	})
}
