package firewall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names on the bus: firewalld.dbus(5).
const (
	firewalldName   = "org.fedoraproject.FirewallD1"
	firewalldZone   = firewalldName + ".zone."
	firewalldPolicy = firewalldName + ".policy."
	firewalldPath   = "/org/fedoraproject/FirewallD1"
)

// A bus is a connection to firewalld through the system's D-Bus.
type bus struct{ conn *dbus.Conn }

// errNotRunning: nobody answers for firewalld.
var errNotRunning = errors.New("firewalld does not run")

// dialBus connects. For each signal of firewalld, and each change of who answers
// for it, heard is called; it must not block.
func dialBus(ctx context.Context, heard func(*dbus.Signal)) (*bus, error) {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	// The address is that of the D-Bus specification, "Well-known Message Bus Instances".
	address := os.Getenv("DBUS_SYSTEM_BUS_ADDRESS")
	if address == "" {
		address = "unix:path=/var/run/dbus/system_bus_socket"
	}
	conn, err := dbus.Connect(address, dbus.WithContext(life), dbus.WithSignalHandler(hearing(heard)),
		dbus.WithAuth(dbus.AuthExternal(strconv.Itoa(os.Geteuid()))))
	if !stop() && err == nil {
		err = ctx.Err()
		conn.Close()
	}
	if err != nil {
		end()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			err = fmt.Errorf("%w: there is no system bus: %w", errNotRunning, err)
		}
		return nil, fmt.Errorf("connect to the system's D-Bus: %w", err)
	}
	b := &bus{conn}
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(firewalldName)},
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, firewalldName)},
	} {
		if err := conn.AddMatchSignalContext(ctx, match...); err != nil {
			b.close()
			return nil, fmt.Errorf("listen on the system's D-Bus: %w", err)
		}
	}
	return b, nil
}

// hearing is a [dbus.SignalHandler].
type hearing func(*dbus.Signal)

func (h hearing) DeliverSignal(_, _ string, s *dbus.Signal) { h(s) }

func (b *bus) close() { b.conn.Close() }

// call calls a method of firewalld, and stores what it returns. Starting firewalld
// is not for us.
func (b *bus) call(ctx context.Context, path dbus.ObjectPath, method string, args []any, result ...any) error {
	short, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := b.conn.Object(firewalldName, path).CallWithContext(short, method, dbus.FlagNoAutoStart, args...).Store(result...)
	if err == nil {
		return nil
	}
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("no answer within 10 seconds")
	}
	return refusal(method[strings.LastIndexByte(method, '.')+1:], err)
}

// A refused is a call that firewalld refused. Code is one of firewall/errors.py of
// its source, for example "ALREADY_ENABLED".
type refused struct{ Code, Text string }

func (r *refused) Error() string { return r.Text }

// codeOf is firewalld's code for what went wrong, or "".
func codeOf(err error) string {
	if r := (*refused)(nil); errors.As(err, &r) {
		return r.Code
	}
	return ""
}

// refusal says what an error on the bus means. All that firewalld itself refuses
// has one name; the code begins the message, up to a colon, as its own client
// reads it.
func refusal(method string, err error) error {
	e := &Error{FrontEnd: Firewalld, Cause: fmt.Errorf("%s: %w", method, err)}
	var d dbus.Error
	if !errors.As(err, &d) {
		return e
	}
	switch {
	case d.Name == firewalldName+".Exception" && len(d.Body) > 0:
		text, _ := d.Body[0].(string)
		code, _, _ := strings.Cut(text, ":")
		e.Cause = fmt.Errorf("%s: %w", method, &refused{code, text})
		switch code {
		case "ACCESS_DENIED":
			e.Kind, e.Detail = ErrPermission, "its lockdown is on, and this program is not on its list"
			e.Hint = "firewall-cmd --lockdown-off"
		case "PANIC_MODE":
			e.Detail, e.Hint = "in panic mode nothing passes, and nothing can be changed", "firewall-cmd --panic-off"
		case "NOT_RUNNING":
			e.Cause = fmt.Errorf("%w: %w", errNotRunning, e.Cause)
		case "INVALID_RULE", "INVALID_PRIORITY":
			e.Kind, e.Detail = errors.ErrUnsupported, "rules with a priority need firewalld 0.7 or later"
		}
	case strings.Contains(d.Name, ".NotAuthorizedException"), d.Name == "org.freedesktop.DBus.Error.AccessDenied":
		e.Kind = ErrPermission
	case d.Name == "org.freedesktop.DBus.Error.ServiceUnknown", d.Name == "org.freedesktop.DBus.Error.NameHasNoOwner",
		d.Name == "org.freedesktop.DBus.Error.NoReply":
		e.Cause, e.Hint = fmt.Errorf("%w, and rules of it are in force: %w", errNotRunning, err), "start firewalld"
	}
	return e
}
