"""Run the notification node: events in, messages to people out. Never here: decisions."""

from mesh.runtime.runner import run
from nodes.notification.node import NotificationNode
from nodes.notification.settings import NotificationSettings

if __name__ == "__main__":
    raise SystemExit(run("notification", NotificationNode, NotificationSettings))
