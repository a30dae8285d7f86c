package redfish

import (
	"errors"
	"fmt"
	"strings"

	"github.com/roundsman-go/roundsman/transport"
)

// idle are the states of an iLO's update service in which it does nothing.
func idle(state string) bool {
	switch strings.ToUpper(state) {
	case "", "IDLE", "COMPLETE", "COMPLETED", "ERROR":
		return true
	}
	return false
}

// preflight refuses what would fail, or come between what others do.
func (u *update) preflight(now *updateService) error {
	if e := now.Enabled.value; e != nil && !*e {
		return u.fail(transport.ErrRejected, errors.New("the update service is switched off"), "switch it on; nothing was sent")
	}
	state := string(now.hpe().State)
	if u.profile == ProfileILO4 {
		state = string(now.State)
	}
	if (u.profile.ilo() || u.profile == ProfileILO4) && !idle(state) {
		return u.fail(transport.ErrBusy, fmt.Errorf("an update is under way: %s", clip(state, 100)), hintBusy)
	}
	if u.s.opts.IgnoreQueue || !u.profile.ilo() {
		return u.others()
	}
	queue, err := u.members(u.ctx, "update", string(now.hpe().Queue))
	if err != nil && !answered(err) {
		return err
	}
	for _, m := range queue {
		var item struct {
			Name, State, Filename text
		}
		if m.err != nil || decode(m.body, &item) != nil {
			continue
		}
		switch strings.ToLower(string(item.State)) {
		case "complete", "canceled", "cancelled":
			continue
		}
		return u.fail(transport.ErrBusy, fmt.Errorf("the update queue holds the task %q, which is %s", clip(string(item.Name), 100), clip(string(item.State), 100)),
			"it comes first, and one that failed blocks all behind it: remove it, or ignore the queue (Options.IgnoreQueue)")
	}
	return u.others()
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
		if m.err == nil && decode(m.body, &a) == nil && a.UserName == oneViewUser {
			return u.fail(transport.ErrRejected, fmt.Errorf("the server is managed by HPE OneView, which has the account %s there", oneViewUser),
				"it would undo or repeat the change: update it there, or ignore that (Options.IgnoreQueue)")
		}
	}
	return nil
}

// boot is when the management processor was reset last, or "" if it does not tell.
func (u *update) boot() string {
	var m manager
	if len(u.managers) == 0 || u.read(u.ctx, "update", string(u.managers[0].ID), &m) != nil {
		return ""
	}
	return string(m.Reset)
}

// tasks returns the identifiers of the tasks that the service has, and whether it lists
// them.
func (u *update) tasks() ([]string, bool) {
	at := u.root.Tasks
	if at == "" {
		at = u.root.TaskService
	}
	if at == "" {
		return nil, false
	}
	var service struct{ Tasks link }
	if u.read(u.ctx, "update", string(at), &service) != nil || service.Tasks == "" {
		return nil, false
	}
	var list struct{ Members []link }
	if u.read(u.ctx, "update", string(service.Tasks), &list) != nil {
		return nil, false
	}
	var out []string
	for _, l := range list.Members {
		if p, err := pathOf(string(l)); err == nil && len(out) < 1000 {
			out = append(out, strings.TrimSuffix(p, "/"))
		}
	}
	return out, true
}
