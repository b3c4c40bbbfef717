"""How strong a penalty is: shares of the task loss, schedules, targets."""
