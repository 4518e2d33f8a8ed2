"""health-monitor: notices sick nodes, spares healthy ones, and repairs on a budget."""
