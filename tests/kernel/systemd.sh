#!/bin/sh
# The first process of tests/kernel/vm.py's machine until it is systemd: $1 is the checkout, the rest the check to run under it.
# Nothing of the host can be written; what systemd must write to lies in memory.
set -e
checkout=$1
shift
mkdir /run/etc
cp -a /etc/. /run/etc
mount --bind /run/etc /etc
for place in /opt /var/log /var/tmp; do mount -t tmpfs -o mode=1777 none $place; done
chmod 666 /dev/net/tun # as udev has it
chmod 755 /var/lib /opt

# The commands as pip would put them there, readable for every user.
mkdir -p /opt/smartvpn /opt/bin
mount --bind "$checkout" /opt/smartvpn
for program in smartvpn:smartvpn.cli smartvpn_daemon:smartvpn.daemon smartvpn-dashboard:smartvpn.dashboard; do
    cat > "/opt/bin/${program%%:*}" <<END
#!/bin/sh
export PYTHONPATH=/opt/smartvpn PYTHONDONTWRITEBYTECODE=1
exec /opt/smartvpn/.venv/bin/python -P -m ${program##*:} "\$@"
END
done
chmod 755 /opt/bin/*

# A system with nothing on it but ours.
rm -rf /etc/systemd/system
mkdir -p /etc/systemd/system /etc/systemd/journald.conf.d
echo 'uninitialized' > /etc/machine-id
: > /etc/fstab
printf '[Journal]\nStorage=volatile\n' > /etc/systemd/journald.conf.d/memory.conf
for unit in systemd-udevd systemd-udev-trigger systemd-hwdb-update systemd-journal-catalog-update systemd-update-done \
    systemd-machine-id-commit systemd-remount-fs systemd-random-seed systemd-binfmt systemd-firstboot systemd-sysusers \
    systemd-logind systemd-networkd systemd-resolved systemd-timesyncd; do
    ln -s /dev/null /etc/systemd/system/$unit.service
done
printf '%s\nstatus=$?\nprintf "\\nvm: status $status\\n"\n' "$*" > /run/check
cat > /etc/systemd/system/check.service <<END
[Unit]
Description=the check
After=basic.target
Requires=basic.target

[Service]
Type=oneshot
Environment=PATH=/opt/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH=/opt/smartvpn PYTHONDONTWRITEBYTECODE=1 HOME=/root
WorkingDirectory=/root
ExecStart=/bin/sh /run/check
ExecStopPost=/usr/bin/systemctl poweroff --force --force
StandardOutput=file:/dev/console
StandardError=file:/dev/console
END
exec /lib/systemd/systemd --unit=check.service
