package redfish

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// preflight refuses what would fail, or come between what others do.
func (u *update) preflight(now *updateService) error {
	if e := now.Enabled.value; e != nil && !*e {
		return u.fail(transport.ErrRejected, errors.New("the update service is switched off"), "switch it on; "+nothingSent)
	}
	if u.data.Way == WayHTTPPush {
		if err := u.notAimed(now); err != nil {
			return err
		}
	}
	if u.profile.ilo() || u.profile == ProfileILO4 {
		if err := u.quiet(now); err != nil {
			return err
		}
	}
	if u.profile.ilo() && !u.s.opts.IgnoreQueue {
		if err := u.queueFree(now); err != nil {
			return err
		}
	}
	return u.others()
}

// quiet refuses to come between another update. An upload that a dead run did not finish
// is over when the target notices, and a component of its own when it is written.
func (u *update) quiet(now *updateService) error {
	for began := time.Now(); ; {
		state := now.state().State
		if idle(state) {
			return nil
		}
		if !receiving(state) && !u.data.Queue.arriving() || time.Since(began) >= u.patience() {
			return u.fail(transport.ErrBusy, fmt.Errorf("an update is under way: %s", clip(state, 100)), hintBusy)
		}
		if err := u.pause(u.s.opts.PollInterval); err != nil {
			return err
		}
		var err error
		if now, err = u.service(u.ctx); err != nil {
			return err
		}
	}
}

// queueFree refuses to pass by what waits in the update queue. What cannot be read may be
// there.
func (u *update) queueFree(now *updateService) error {
	unread := func(err error) error {
		return u.fail(transport.ErrBusy, fmt.Errorf("what is in the update queue cannot be read: %w", err),
			"let the account read it, or ignore the queue (Options.IgnoreQueue); "+nothingSent)
	}
	queue, err := u.members(u.ctx, "update", string(now.hpe().Queue))
	if err != nil {
		if !answered(err) {
			return err
		}
		return unread(err)
	}
	for _, m := range queue {
		var item queueItem
		err := m.err
		if err == nil {
			err = u.conn.decode("update", m.uri, m.body, &item)
		}
		if err != nil {
			return unread(err)
		}
		if item.over() || u.data.Queue != nil && string(item.Name) == u.data.Queue.Name {
			continue
		}
		hint := "it comes first, and one that failed blocks all behind it: remove it, or ignore the queue (Options.IgnoreQueue)"
		if item.waitsForHost() {
			// Others that the host applies can stand behind it, but not the same one again.
			if q := u.data.Queue; q == nil || slices.Equal(q.By, []string{byHost}) && !strings.EqualFold(string(item.Filename), q.File) {
				continue
			}
			hint = "it was put there by an earlier update, and comes first, when the host starts anew: restart the host, or remove the task"
		}
		return u.fail(transport.ErrBusy, fmt.Errorf("the update queue holds the task %q, which is %s", clip(string(item.Name), 100), clip(string(item.State), 100)), hint)
	}
	return nil
}

// oneViewUser is the account that HPE OneView makes on every iLO that it manages.
const oneViewUser = "_HPOneViewAdmin"

// others refuses to change a server that another program manages. An account that may
// not see the others does not tell.
func (u *update) others() error {
	if u.s.opts.IgnoreQueue || !u.profile.ilo() && u.profile != ProfileILO4 || u.root.AccountService == "" {
		return nil
	}
	var service struct{ Accounts link }
	err := u.read(u.ctx, "update", string(u.root.AccountService), &service)
	var accounts []member
	if err == nil {
		accounts, err = u.members(u.ctx, "update", string(service.Accounts))
	}
	if err != nil && !answered(err) {
		return err
	}
	for _, m := range accounts {
		var a struct{ UserName text }
		if m.err == nil && decode(m.body, &a) == nil && strings.EqualFold(string(a.UserName), oneViewUser) {
			return u.fail(transport.ErrRejected, fmt.Errorf("the server is managed by HPE OneView, which has the account %s there", oneViewUser),
				"it would undo or repeat the change: update it there, or ignore that (Options.IgnoreQueue)")
		}
	}
	return nil
}
